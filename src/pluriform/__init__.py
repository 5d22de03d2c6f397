"""Every form of one network."""
