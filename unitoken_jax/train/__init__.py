"""Optimizer, training step, metrics and the loop."""
