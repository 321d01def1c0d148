"""A sharded model on paper: what each rank of a mesh would hold, draw and launch, and that it is all there.

No mesh is needed, and no memory: a model on the meta device, the mesh's sizes, and a layout that says by name
how parameters are cut. ``mesh`` reads the sizes, ``layouts`` says who is cut how, ``regions`` where what a
rank holds lies, ``coverage`` proves that it is everything, ``shares`` what kernels do for it, ``predictions``
how long that takes, and ``mesh_plan`` puts it together.
"""
