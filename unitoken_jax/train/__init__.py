"""Optimiser, training step, metrics and the loop."""
