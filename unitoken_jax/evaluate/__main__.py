"""Evaluate a run: python -m unitoken_jax.evaluate --workdir DIR [--config FILE].

Prints a table and writes WORKDIR/evaluation/default.json, with examples as images in
WORKDIR/evaluation/default/; what is measured with another config than the run's own
gets a name of its own beside it. Or compare two folders of images:

    --real DIR --generated DIR --inception WEIGHTS
"""

import dataclasses
from typing import Any, get_args

import absl.logging
from absl import flags

from data_pipelines.images import decoding
from unitoken_jax import config as configs
from unitoken_jax.config import UserError
from unitoken_jax.evaluate.feature_networks import folders, preprocessing
from unitoken_jax.evaluate.perception import PerceptionConfig
from unitoken_jax.evaluate.run import run
from unitoken_jax.evaluate.statistics.intervals import table
from unitoken_jax.files import define_path_flag
from unitoken_jax.runtime.console import log_to_console
from unitoken_jax.runtime.environment import (
    COMPILE_CACHE,
    let_cpu_devices_meet,
    use_compile_cache,
)
from unitoken_jax.train.experiment import experiment_of

_WEIGHTS = {
    "inception": "Weights of the FID's Inception, or none.",
    "alexnet": "Weights of AlexNet, if there.",
    "lpips": "Weights of LPIPS, for folders of equal names.",
}


def main() -> None:
    """Evaluate the run, or compare the folders, that the flags name."""
    given = flags.FLAGS
    let_cpu_devices_meet()
    use_compile_cache(given.compile_cache)
    if given.real or given.generated:
        if not (given.real and given.generated):
            raise UserError("give both folders: --real DIR --generated DIR.")
        if given.config or given.workdir:
            raise UserError("--real and --generated go without --config and --workdir.")
        # The table is all that is printed; of the libraries only warnings.
        absl.logging.set_verbosity(absl.logging.WARNING)
        _compare(given)
        return
    if not given.workdir:
        raise UserError(
            "nothing to do: give --workdir DIR to evaluate a run, or --real DIR "
            "--generated DIR to compare two folders of pictures."
        )
    with log_to_console():
        run(experiment_of(given.config, given.workdir), given.workdir, given.name)


def _compare(given: flags.FlagValues) -> None:
    names = [field.name for field in dataclasses.fields(folders.FoldersConfig)]
    weights = {name: str(given[name].value or "") for name in _WEIGHTS}
    fields: dict[str, Any] = {name: given[name].value for name in names} | weights
    found = folders.compare_folders(folders.FoldersConfig(**fields))
    print(table(found))
    if given.output:
        folders.write(given.output, found)


def _define_flags() -> None:
    configs.define_flag(required=False)
    define_path_flag("workdir", None, "Directory of the run.")
    flags.DEFINE_string(
        "name", None, "Of the evaluation; by default it says what differs."
    )
    define_path_flag("real", None, "Folder of real pictures.")
    define_path_flag("generated", None, "Folder of pictures to judge.")
    fallbacks = {"alexnet": PerceptionConfig().alexnet}
    for name, meaning in _WEIGHTS.items():
        define_path_flag(name, fallbacks.get(name, ""), meaning, optional=True)
    variants = list(preprocessing.VARIANTS)
    flags.DEFINE_enum("preprocess", "none", variants, "How pictures get their size.")
    policies = list(get_args(decoding.Policy))
    flags.DEFINE_enum(
        "orientation", "released", policies, "Whether EXIF turns pictures upright."
    )
    flags.DEFINE_integer("size", 256, "Side after --preprocess, in pixels.", 16, 4096)
    flags.DEFINE_integer("batch", 32, "Pictures in a network at once.", 1, 65536)
    flags.DEFINE_boolean(
        "keep", True, "Hold features in memory, for more than the Fréchet distance."
    )
    define_path_flag("output", None, "JSON file for the numbers of two folders.")
    flags.DEFINE_string("compile_cache", COMPILE_CACHE, "Compiled programs; '': none.")


if __name__ == "__main__":
    _define_flags()
    configs.run(main)
