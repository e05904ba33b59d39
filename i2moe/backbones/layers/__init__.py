"""Layers that the fusions are made of."""
