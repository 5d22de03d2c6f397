"""Kernels larger than memory: computed tile by tile into a Zarr store on disk, and read back in parts."""

from pluriform.infinite.store.stored import StoredKernel, StoredMatrix, open_kernel
from pluriform.infinite.store.write import kernel_store

__all__ = ["StoredKernel", "StoredMatrix", "kernel_store", "open_kernel"]
