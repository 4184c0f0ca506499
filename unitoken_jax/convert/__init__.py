"""Weights in and out: one declarative table per published checkpoint."""
