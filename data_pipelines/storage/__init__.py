"""Prepared data sets on disk: written whole, verified, read at random."""
