"""Data sets: records, loading, checks, corruptions."""
