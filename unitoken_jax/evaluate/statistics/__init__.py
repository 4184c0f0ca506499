"""Measures of numbers, features and answers, in NumPy on the host: no model is run."""
