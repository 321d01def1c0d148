"""Who holds which part of a tensor: DTensors, whatever their mesh and placements.

Nothing here communicates. A rank knows its coordinates in the mesh, and the rest is arithmetic: elements are
addressed by their place in the global tensor, so that what ranks write fits together.
"""
