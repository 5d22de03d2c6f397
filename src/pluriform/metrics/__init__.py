"""Pure functions on tensors that judge predictions."""
