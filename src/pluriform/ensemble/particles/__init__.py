"""Directions that move a set of particles towards a density and apart from each other: pure functions of tensors."""
