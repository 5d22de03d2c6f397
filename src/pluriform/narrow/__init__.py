"""Thin networks by way of wide ones."""
