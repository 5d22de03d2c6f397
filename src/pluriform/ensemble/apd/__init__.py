"""Adversarial posterior distillation."""
