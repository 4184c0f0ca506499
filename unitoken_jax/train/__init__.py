"""Optimiser, training step, checkpoints, metrics and the loop."""
