"""Architecture search by function-preserving morphisms and a Gaussian process over architectures."""
