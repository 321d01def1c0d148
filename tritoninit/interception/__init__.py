"""Code that was not written for this library: what it asks of torch.nn.init is recorded and served.

What happens to a parameter under ``intercept``: a call that fills it is seen, be it of ``torch.nn.init`` or
a method; it becomes a fill with a key; this waits, is forgotten if another covers its memory, and is written
once, when somebody first looks.

===============  ================================================================================
``entry``        what is promised: ``intercept``, and its limits
``intercepted``  what it tells afterwards
``served``       which functions and methods are served, and by which initializers
``libraries``    the same of libraries that write their own
``routes``       how calls of these functions are seen: they get other code for a while
``arrivals``     how a library is seen that somebody imports in a block
``recorder``     the whole way of a call: seen, recorded, run, told of, or passed on to torch
``generators``   torch's, NumPy's and Python's own: seeded for the block, and put back
``calls``        what a call of torch's reads, views or hands out; which arguments can be served
``regions``      where in its storage a tensor lies, and what covers what
``filled``       a fill that was asked for, or drawn by torch, and what a tensor is after several
``asked``        rules for a model, of what is known of each of its tensors
``tape``         what a block's calls did to tensors, for those who ask later how one came about
``taping``       a recorder that keeps such a tape, with which tensors need no memory
``summary``      from a tape to initializers
``private``      what all this uses of torch that torch does not promise
===============  ================================================================================

The first six are loaded by ``import tritoninit`` and use nothing private of torch's; the others are
loaded by the first ``intercept``.
"""
