"""Sparse autoencoders: their features as vectors, readers and an intervention, and which of them tell what."""
