"""What a stage is made of: its model, its data and the frozen models it consults."""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from data_pipelines.classes import ClassesConfig
from data_pipelines.errors import DataError
from data_pipelines.loader import Loader, make_loader
from data_pipelines.pretokenize import pretokenize
from data_pipelines.storage.manifest import read_manifest
from data_pipelines.tokenizers.tokenizer import read_vocabulary
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary
from unitoken_jax import convert
from unitoken_jax.checkpoint import warm_start, weights_file
from unitoken_jax.checkpoint.reader import restore_params
from unitoken_jax.checkpoint.state import Params
from unitoken_jax.config import ConfigError, UserError
from unitoken_jax.convert import WeightsError
from unitoken_jax.models.image_tokenizer import ImageTokenizer, encode_images
from unitoken_jax.models.system import FrozenModel, FrozenModels, System
from unitoken_jax.parallel.mesh import make_mesh
from unitoken_jax.parallel.rows import local_rows
from unitoken_jax.runtime import processes
from unitoken_jax.runtime.pytree import flatten
from unitoken_jax.train import images, preflight
from unitoken_jax.train.config import StageConfig, WeightsConfig
from unitoken_jax.train.loop import HostBatch

log = logging.getLogger(__name__)

_TOKENIZE_BATCH = 64  # images; the codes do not depend on it


@dataclasses.dataclass(frozen=True)
class StageComponents:
    """What a stage is made of; the loop itself knows none of it.

    Attributes:
        system: the model.
        batches: the stream, at its beginning.
        pictures: draws what the model does with a batch, or None.
        frozen_models: the frozen networks that loss and discriminator consult.
    """

    system: System
    batches: Loader
    pictures: Callable[[Params, HostBatch], Mapping[str, np.ndarray]] | None = None
    frozen_models: FrozenModels = dataclasses.field(default_factory=dict)


class StageBuilder:
    """Makes what the stages of an experiment are made of."""

    def __init__(self, workdir: Path, *, verify: bool = False) -> None:
        self._codes = workdir / "codes"
        self._verify = verify

    def check_data(self, stage: StageConfig, config_path: str, data_dir: Path) -> None:
        """Refuse a data set that is not there or has another tokenizer."""
        try:
            directory = _directory(stage, data_dir)
            _read_vocabulary(stage, directory, config_path)
            _check_weights(stage, directory)
        except DataError as error:
            raise UserError(f"{config_path}.data: {error}.") from error

    def build(
        self, stage: StageConfig, config_path: str, data_dir: Path
    ) -> StageComponents:
        """Build model and loader, and check that they fit."""
        system, directory = stage.system, _directory(stage, data_dir)
        frozen_models = {
            name: _frozen(weights, f"{config_path}.frozen_models.{name}")
            for name, weights in stage.frozen_models.items()
        }
        try:
            loader = make_loader(
                stage.data,
                directory,
                _read_vocabulary(stage, directory, config_path),
                batch=stage.train.batch,
                seed=stage.seed,
                part=local_rows(stage.train.batch, make_mesh(stage.mesh)).tolist(),
                # All else was verified before the first stage.
                verify=self._verify and directory.is_relative_to(self._codes),
            )
            preflight.check_codes(system, loader.codes, config_path)
        except DataError as error:
            raise UserError(f"{config_path}.data: {error}.") from error
        for line in loader.summary.splitlines():
            log.info("%s", line)
        draw = images.reconstructions(system) if system.image_tokenizer else None
        return StageComponents(system, loader, draw, frozen_models)

    def tokenize(self, tokenizer: StageConfig, directory: Path, data_dir: Path) -> Path:
        """Encode the data set with a trained VQGAN or UniTok, once."""
        module, data = _image_tokenizer(tokenizer.system), tokenizer.data
        params, _ = restore_params(directory, ema=bool(tokenizer.train.ema))
        output = self._codes / tokenizer.name
        if not processes.is_first():
            processes.wait_for_all("the image codes")
            return output
        try:
            pretokenize(
                data_dir,
                output,
                lambda images: np.asarray(encode_images(module, params, images)),
                batch=_TOKENIZE_BATCH,
                image_size=data.image_size,
                tokenizer_id=_digest(params),
                background=data.background,
                codebook=_codebook(module),
                overwrite=True,
            )
        except DataError as error:
            raise UserError(f"{error}.") from error
        processes.wait_for_all("the image codes")
        return output


def _frozen(weights: WeightsConfig, config_path: str) -> FrozenModel:
    """Read the weights of a frozen network."""
    try:
        module, params = convert.load(weights.format, weights.path)
    except WeightsError as error:
        raise UserError(f"{config_path}: {error}.") from error
    return FrozenModel(module, params)


def _image_tokenizer(system: System) -> ImageTokenizer:
    """Return what codes images, or say that a model does not."""
    if system.image_tokenizer is None:
        raise ConfigError(
            f"a {system.kind} gives no image codes; `codes.stage` must name a stage "
            "that trains a vqgan or a unitok."
        )
    return system.image_tokenizer


def _codebook(tokenizer: ImageTokenizer) -> tuple[int, int] | None:
    """Return codebooks and codes in each, of a tokenizer whose codes have no names."""
    if tokenizer.num_codebooks is None:
        return None
    return tokenizer.num_codebooks, tokenizer.codebook_size


def _digest(params: Params) -> str:
    """Return a SHA-256 of parameters."""
    digest = hashlib.sha256()
    for path, value in sorted(flatten(params).items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _directory(stage: StageConfig, data_dir: Path) -> Path:
    """Return the data set of a stage: its own, or that of the experiment."""
    return Path(stage.data.directory or data_dir)


def _check_weights(stage: StageConfig, directory: Path) -> None:
    """Refuse to start a model of texts from weights that know other ids."""
    needs = stage.system.data
    if not (needs.vocabulary or needs.text_length):
        return
    for ours, source in stage.init.items():
        path, _ = warm_start.part(source)
        if ours == warm_start.WHOLE and weights_file.is_weights_file(Path(path)):
            weights_file.check_vocabulary(Path(path), directory / "tokenizer.json")


def _read_vocabulary(
    stage: StageConfig, directory: Path, config_path: str
) -> ImageTextVocabulary | None:
    """Return the vocabulary of a data set, after a check that the model has it too."""
    if isinstance(stage.data, ClassesConfig):  # published code files have no vocabulary
        return None
    read_manifest(directory)
    vocabulary = read_vocabulary(directory / "tokenizer.json")
    preflight.check_vocabulary(stage.system, vocabulary, f"{config_path}.model")
    return vocabulary
