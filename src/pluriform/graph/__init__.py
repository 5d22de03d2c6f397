"""The user's module read as a graph."""
