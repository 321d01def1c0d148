"""Compiled kernels, executed on a CPU: what Triton's compilers emit, instruction by instruction, in NumPy.

``launch.Emulated`` runs the library's own launchers against it. ``ptx``, ``sass`` and ``gcn`` decode one
kernel's code for ``engine``, which executes it and refuses what hardware leaves undefined. Nothing here knows
the stream, or shares a line with ``kernels``: an error would have to be made twice to go unseen.
"""
