"""Compiles kernels, and keeps their machine code on disk."""
