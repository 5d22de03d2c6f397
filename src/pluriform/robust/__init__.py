"""Classifiers trained against an adversary: one objective a file, and what keeps their training honest."""
