"""Linen building blocks that name parameters and call ops."""
