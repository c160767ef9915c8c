"""Executors: one forward pass per level, packed on a CPU, fixed shapes and CUDA graphs on a GPU."""
