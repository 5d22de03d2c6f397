"""HyperGAN: a generator whose draws are whole networks."""
