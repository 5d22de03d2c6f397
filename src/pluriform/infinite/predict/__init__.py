"""Predictions of infinitely wide networks from their kernels."""
