"""Frozen networks that judge images: distances, features, a discriminator."""
