"""Stub, being written."""
