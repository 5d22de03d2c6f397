"""Figures and one self-contained page, from result JSON alone."""
