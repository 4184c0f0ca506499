"""Checkpoints: written, verified and read; the only package that knows Orbax."""
