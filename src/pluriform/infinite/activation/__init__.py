"""Nonlinearities on jointly Gaussian units, one family a file."""
