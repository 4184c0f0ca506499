"""Packed rows of UniToken: text, image codes and continuous features."""
