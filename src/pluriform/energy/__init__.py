"""Classifiers as densities: joint energy-based models and what keeps their training together."""
