"""Many small networks of one architecture computed in cache: outputs, losses and gradients of weights, on the CPU."""
