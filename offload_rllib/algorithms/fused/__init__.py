"""Gradient steps written out for small networks: several times faster than autograd."""
