"""`python -m unitoken_jax.convert`: weights of one format to another."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from unitoken_jax.config import UserError
from unitoken_jax.convert import WeightsError, convert
from unitoken_jax.convert.formats import FORMATS, JAX

_NAMES = (JAX, *FORMATS)
_FROM = flags.DEFINE_enum("from", None, _NAMES, "Format of the source.", required=True)
_TO = flags.DEFINE_enum("to", None, _NAMES, "Format to write.", required=True)
_INPUT = flags.DEFINE_string(
    "input", None, "Weight file, folder of them, or checkpoint.", required=True
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Where to write: a folder, or a file ending in .safetensors or .pth. It must not"
    " exist.",
    required=True,
)
_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "JSON file with configuration of the source's format, which adds to or replaces"
    " what the source says itself.",
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ("float32", "bfloat16", "float16"),
    "Type to write; as in the source.",
)
_IMAGE_TOKENIZER = flags.DEFINE_string(
    "image_tokenizer",
    None,
    "VQGAN to put into chameleon-hf: a vqgan file or checkpoint.",
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


def main(argv: list[str]) -> None:
    """Convert what the flags say."""
    del argv
    logging.set_verbosity(logging.WARNING)
    started = time.monotonic()
    try:
        convert(
            _FROM.value,
            _TO.value,
            _INPUT.value,
            _OUTPUT.value,
            config=_read_config(_CONFIG.value),
            dtype=_DTYPE.value,
            image_tokenizer=_IMAGE_TOKENIZER.value,
        )
    except UserError as fault:
        sys.exit(f"error: {fault}")
    print(f"{_OUTPUT.value} written in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    app.run(main)
