"""Weights in and out: one declarative table per published checkpoint.

`load` and `save` are the Python interface, `python -m unitoken_jax.convert` the
command. Every network has one file here, `convert/<network>.py`, with two functions of
the model's frozen configuration:

    table(config, prefix="") -> Table     published names ↔ parameter paths
    counts(config) -> Counts              how many of each `{counter}`

`prefix` is put in front of our paths (`"decoder/"` inside UniToken). `formats.py` lists
what `--from` and `--to` know, `networks.py` the networks behind it.
"""

from unitoken_jax.convert.exchange import abstract, convert, load, save
from unitoken_jax.convert.table import WeightsError

__all__ = ["WeightsError", "abstract", "convert", "load", "save"]
