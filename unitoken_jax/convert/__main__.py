"""`python -m unitoken_jax.convert`: weights of one format to another."""

import json
import time
from pathlib import Path
from typing import Any

from absl import flags, logging

from unitoken_jax import config as configs
from unitoken_jax.convert import WeightsError, convert
from unitoken_jax.convert.formats import FORMATS, JAX


def define_flags() -> None:
    """Define the flags of the command."""
    names = (JAX, *FORMATS)
    flags.DEFINE_enum("from", None, names, "Format of the source.", required=True)
    flags.DEFINE_enum("to", None, names, "Format to write.", required=True)
    flags.DEFINE_string(
        "input", None, "Weight file, folder of them, or checkpoint.", required=True
    )
    flags.DEFINE_string(
        "output",
        None,
        "Where to write: a folder, or a file ending in .safetensors or .pth. It must"
        " not exist.",
        required=True,
    )
    flags.DEFINE_string(
        "config",
        None,
        "JSON file with configuration in the source's format, which adds to or replaces"
        " what the source says itself.",
    )
    flags.DEFINE_enum(
        "dtype",
        None,
        ("float32", "bfloat16", "float16"),
        "Type to write; without it the source's.",
    )
    flags.DEFINE_string(
        "image_tokenizer",
        None,
        "VQGAN to put into chameleon-hf: a vqgan file or a checkpoint.",
    )


def _read_config(path: str | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        config = json.loads(Path(path).read_text())
    except (OSError, ValueError) as fault:
        raise WeightsError(
            f"--config {path} cannot be read as JSON: {fault}"
        ) from fault
    if not isinstance(config, dict):
        raise WeightsError(f"--config {path} holds no JSON object")
    return config


def main() -> None:
    """Convert what the flags say."""
    values = flags.FLAGS
    named = values.flag_values_dict()  # "from" is a keyword, so no attribute
    logging.set_verbosity(logging.WARNING)
    started = time.monotonic()
    convert(
        named["from"],
        values.to,
        values.input,
        values.output,
        config=_read_config(values.config),
        dtype=values.dtype,
        image_tokenizer=values.image_tokenizer,
    )
    print(f"{values.output} written in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    define_flags()
    configs.run(main)
