"""What the command line runs; `cli` reads the arguments and imports what they ask for.

``init``, ``plan``, ``check``, ``info`` and ``compare`` run a command each. ``subjects`` finds the model that
``init`` or ``plan`` is about, and ``init_output`` and ``plan_output`` say what was done. Those besides are of
``init``: ``weights`` writes it, ``timing`` and ``torch_comparison`` tell how fast.
"""
