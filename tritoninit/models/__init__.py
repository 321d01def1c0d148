"""What a model is made of and what it wants.

- ``slots``: its parameters and buffers, once each, by names that wrappers do not change; selections of them.
- ``globs``: which of many a name matches.
- ``rules``: which initializer each of them gets.
- ``materialize``: memory for those on the meta device, other devices and dtypes for the rest.
- ``mup``: rules for a wider model.
"""
