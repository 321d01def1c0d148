"""What the command line runs; `cli` reads the arguments and imports what they ask for.

``init``, ``check``, ``info`` and ``compare`` run a command each. Those besides are of ``init``: ``subjects``
finds the model, ``weights`` writes it, ``init_output`` says what was done, ``timing`` and
``torch_comparison`` how fast.
"""
