"""One file for each kind of place that samples come from."""
