"""What a model is made of and what it wants.

- ``slots``: its parameters and buffers, once each, by names that wrappers do not change; selections of them.
- ``walk``: its modules, in a list.
- ``globs``: which of many a name matches.
- ``rules``: which initializer each of them gets.
- ``methods``: by which modules say that they can initialise themselves, and how they are called.
- ``materialize``: memory for those on the meta device, other devices and dtypes for the rest.
- ``placeholders``: what is here of a parameter only in part, or not at all.
- ``mup``: rules for a wider model.
"""
