"""From codes to the weights of a network."""
