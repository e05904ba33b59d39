"""Observation: how a model is run over data, and what is kept of each batch."""
