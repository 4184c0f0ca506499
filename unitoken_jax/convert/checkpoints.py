"""The `jax` format: parameters of our own checkpoints, read and written in slices.

A training run writes its checkpoints through Orbax (`unitoken_jax/checkpoint`); this
module reads the parameters of such a checkpoint and writes ones that training,
generation and evaluation restore, without ever holding a whole stack of layers: Orbax
lays the files out, TensorStore moves the slices. The folder is

    PATH/config.json              {"model": …}, as a run's own config.json has it, and
                                  under `published` what a published source said
    PATH/checkpoints/0/state      the parameters, under `params`

or, where PATH ends in .safetensors, one file with the parameters by our own names and
the description in its metadata, which a training's `init` reads as well.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unitoken_jax.checkpoint.reader import CheckpointError, find_intact, steps
from unitoken_jax.checkpoint.slices import open_params, write_params
from unitoken_jax.checkpoint.weights_file import (
    VOCABULARY,
    is_weights_file,
    vocabulary_digest,
)
from unitoken_jax.convert.files.sinks import (
    check_space,
    refuse_existing,
    replacing,
    write_weights,
)
from unitoken_jax.convert.files.sources import SafetensorsSource
from unitoken_jax.convert.tensors import Reader, Spec, WeightsError
from unitoken_jax.files import read_json
from unitoken_jax.renamed import parameter, translate


class CheckpointReader:
    """The parameters of the newest checkpoint of a run, from disk slice by slice."""

    def __init__(self, path: Path, weights: str = "params") -> None:
        """Open the checkpoint below `path` (a stage's folder or its `checkpoints`).

        Args:
            path: of the stage.
            weights: "params", or "ema" for their moving average.

        Raises:
            WeightsError: there is no complete checkpoint of ours, or it has no average.
        """
        folder = _newest(path) / "state"
        self._folder = folder
        try:
            self._stores = open_params(folder.parent, weights)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
            raise _incomplete(folder, fault) from fault
        if not self._stores and weights == "ema":
            raise WeightsError(
                f"{folder} holds no average of the parameters; train with"
                " train.ema, or use --weights=params"
            )
        if not self._stores:
            raise WeightsError(
                f"{folder} holds no parameters; is it a checkpoint of training?"
            )
        self._specs = {
            path: Spec(tuple(store.shape), store.dtype.numpy_dtype)
            for path, store in self._stores.items()
        }

    @property
    def specs(self) -> dict[str, Spec]:
        """Shape and type of every parameter, by path."""
        return self._specs

    def read(self, path: str, index: tuple[int, ...]) -> np.ndarray:
        """The parameter at `path`, with `index` on its leading axes."""
        try:
            return self._stores[path][index].read().result()
        except (OSError, ValueError) as fault:
            raise _incomplete(self._folder, fault) from fault

    def stacked(self, path: str) -> int:
        """How many leading axes of a parameter are best read one by one."""
        chunk = self._stores[path].chunk_layout.read_chunk.shape or ()
        shape = self._specs[path].shape
        depth = 0
        while depth < len(shape) - 1 and chunk[depth] == 1 < shape[depth]:
            depth += 1
        return depth


class WeightsFileReader:
    """The parameters of a file of weights by our own names."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            WeightsError: it is none, or damaged.
        """
        source = SafetensorsSource({path: None}, {})
        self._source = {parameter(name): name for name in source}
        self._arrays = source

    @property
    def specs(self) -> dict[str, Spec]:
        """Shape and type of every parameter, by path."""
        return {path: self._arrays.spec(name) for path, name in self._source.items()}

    def read(self, path: str, index: tuple[int, ...]) -> np.ndarray:
        """The parameter at `path`, with `index` on its leading axes."""
        return self._arrays[self._source[path]][index]

    def stacked(self, path: str) -> int:
        """How many leading axes of a parameter are best read one by one: none."""
        del path
        return 0


def _incomplete(folder: Path, fault: Exception) -> WeightsError:
    said = (str(fault).splitlines() or [type(fault).__name__])[0]
    return WeightsError(
        f"{folder} is not a complete checkpoint ({said[:300]}); take another one, or"
        " convert again"
    )


def read_config(path: Path) -> dict[str, Any]:
    """The configuration beside a checkpoint; its `model` says which model it is.

    Raises:
        WeightsError: there is none, or it is not ours.
    """
    file = path if is_weights_file(path) else _stage(path) / "config.json"
    try:
        if is_weights_file(path):
            found: Mapping[str, object] = SafetensorsSource({path: None}, {}).config
        else:
            found = read_json(file.read_bytes())
        described, _ = translate(dict(found))
        stages = described.get("stages")
        if isinstance(stages, Mapping):
            raise WeightsError(
                f"{path} is the folder of a run; give that of a stage:"
                f" {', '.join(sorted(stages))}"
            )
        model = described["model"]
        if not isinstance(model, Mapping):
            raise TypeError(f"model is a {type(model).__name__}")
    except WeightsError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise WeightsError(
            f"{file} does not say which model the checkpoint holds ({fault}); give the"
            " folder of a training stage or of an earlier conversion"
        ) from fault
    return described


def read_run(path: Path) -> dict[str, Any]:
    """The configuration of the whole run that a stage belongs to; empty without one."""
    try:
        run = _stage(path).parent / "config.json"
        return translate(dict(read_json(run.read_bytes())))[0]
    except (OSError, ValueError, TypeError):
        return {}


def write_checkpoint(
    path: Path,
    reader: Reader,
    model: Mapping[str, object],
    published: Mapping[str, object] | None = None,
    files: Mapping[str, bytes] | None = None,
    *,
    tokenizer: Path | None = None,
) -> None:
    """Write parameters as a checkpoint, one slice in memory at a time.

    Args:
        path: a folder, or a file ending in .safetensors, that does not exist yet.
        reader: the parameters.
        model: the model's configuration, of primitives, with its `kind`.
        published: what a published source said of the model, kept for the way back.
        files: what else the folder holds, by name.
        tokenizer: the tokenizer.json of the texts that the model has learnt, whose
            digest a file keeps.

    Raises:
        WeightsError: the path is taken, the disk is full, or a parameter cannot be
            read.
    """
    described = {"model": dict(model), "published": dict(published or {})}
    specs = reader.specs
    if is_weights_file(path):
        plain = json.loads(json.dumps(described, default=str))
        if tokenizer is not None:
            plain[VOCABULARY] = vocabulary_digest(tokenizer.read_bytes())
        write_weights(path, specs, lambda key: reader.read(key, ()), plain)
        return
    refuse_existing(path)
    check_space(path, sum(spec.size for spec in specs.values()))
    arrays = {key: _Sliced(reader, key, spec) for key, spec in specs.items()}
    with replacing(path) as temporary:
        temporary.mkdir()
        text = json.dumps(described, indent=2, sort_keys=True, default=str)
        (temporary / "config.json").write_text(text + "\n")
        for name, content in (files or {}).items():
            (temporary / name).write_bytes(content)
        write_params(temporary / "checkpoints" / "0", arrays)


class _Sliced:
    """A parameter that has not been read."""

    def __init__(self, reader: Reader, path: str, spec: Spec) -> None:
        self._reader, self._path = reader, path
        self.shape, self.dtype = spec
        self.depth = reader.stacked(path)

    def read(self, index: tuple[int, ...]) -> np.ndarray:
        """Return the slice at `index` of the leading axes."""
        return self._reader.read(self._path, index)


def _stage(path: Path) -> Path:
    return path.parent if path.name == "checkpoints" else path


def _newest(path: Path) -> Path:
    """Return the newest checkpoint whose files are as they were written."""
    folder = _stage(path) / "checkpoints"
    if not steps(folder):
        raise WeightsError(
            f"{path} holds no checkpoint; give the folder of a training stage (it has"
            " `checkpoints`) or of an earlier conversion to jax"
        )
    try:
        return find_intact(folder)
    except CheckpointError as error:
        raise WeightsError(str(error).removesuffix(".")) from error
