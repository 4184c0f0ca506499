"""Weights in and out: one declarative table per published checkpoint.

`load` and `save` are the Python interface, `python -m unitoken_jax.convert` the
command. Every published network has one file, `published/<network>.py`, with its table,
its configuration and the `Format`s that they make. `formats.py` lists what `--from` and
`--to` know. A model in a file of its own brings its own format with it.
"""

from unitoken_jax.convert.exchange import abstract, convert, load, save
from unitoken_jax.convert.tensors import WeightsError

__all__ = ["WeightsError", "abstract", "convert", "load", "save"]
