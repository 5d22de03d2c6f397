"""Multiplicative normalizing flows."""
