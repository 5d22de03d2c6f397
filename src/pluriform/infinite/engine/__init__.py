"""The fused engine: closed-form kernels of a whole stage on one displacement at a time, in cache, in float32."""
