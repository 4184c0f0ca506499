"""The self-contained HTML page of a run, built from its files alone."""

from unitoken_jax.report.page import build

__all__ = ["build"]
