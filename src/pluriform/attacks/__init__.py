"""Threat models, and one attack a file."""
