"""`python -m unitoken_jax.convert`: weights of one format to another."""

import time

from absl import flags, logging

from unitoken_jax import config as configs
from unitoken_jax.convert import convert
from unitoken_jax.convert.files.sources import read_described
from unitoken_jax.convert.formats import FORMATS, JAX
from unitoken_jax.files import define_path_flag


def define_flags() -> None:
    """Define the flags of the command."""
    names = f"{', '.join((JAX, *FORMATS))}; or package.module:NAME of another one"
    flags.DEFINE_string("from", None, f"Format of the source: {names}.", required=True)
    flags.DEFINE_string("to", None, f"Format to write: {names}.", required=True)
    define_path_flag(
        "input", None, "Weight file, folder of them, or checkpoint.", required=True
    )
    define_path_flag(
        "output",
        None,
        "Where to write: a folder, or a file ending in .safetensors or .pth. It must"
        " not exist.",
        required=True,
    )
    define_path_flag(
        "config",
        None,
        "JSON file with configuration in the source's format, which adds to or replaces"
        " what the source says itself.",
    )
    flags.DEFINE_string(
        "weights",
        None,
        "Which set of a file that holds several: model, ema,"
        " trainer/disc; params or ema of a run.",
    )
    flags.DEFINE_string(
        "part", None, "Part of the model to write alone: decoder, vision, text."
    )
    flags.DEFINE_enum(
        "dtype",
        None,
        ("float32", "bfloat16", "float16"),
        "Type to write; without it the source's.",
    )
    define_path_flag(
        "image_tokenizer",
        None,
        "VQGAN to put into chameleon-hf: a vqgan file or a checkpoint.",
    )
    define_path_flag(
        "vocabulary",
        None,
        "tokenizer.json with the names of the decoder's ids; without it the one beside"
        " the source, or of the run's data.",
    )


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
        config=None if values.config is None else read_described(values.config),
        dtype=values.dtype,
        image_tokenizer=values.image_tokenizer,
        weights=values.weights,
        vocabulary=values.vocabulary,
        part=values.part,
    )
    print(f"{values.output} written in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    define_flags()
    configs.run(main)
