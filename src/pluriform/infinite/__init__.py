"""The infinitely wide form: closed-form kernels of an ordinary module, and what its trained ensemble predicts."""
