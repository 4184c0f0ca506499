"""Meta's folders: `consolidated.pth`, or one file for each model-parallel shard."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unitoken_jax.convert.chameleon import META_JOINS
from unitoken_jax.convert.sinks import Read, check_space, replacing, write_weights
from unitoken_jax.convert.sources import (
    MergedSource,
    Source,
    join_of,
    open_source,
    read_described,
)
from unitoken_jax.convert.table import Spec, WeightsError

_DESCRIPTIONS = ("params.json", "consolidate_params.json")


def open_shards(path: Path, weights: str | None = None) -> Source:
    """Open a folder of shards, or one shard that is the whole, as one source.

    Args:
        path: of the folder or file.
        weights: see `sources.open_source`.

    Raises:
        WeightsError: there is no shard, or see `sources.open_source`.
    """
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("consolidated*.*th")) if path.is_dir() else [path]
    if not files:
        raise WeightsError(
            f"{folder} holds no consolidated.pth or consolidated.00.pth; give the"
            " folder of one model, such as data/models/7b"
        )
    _check_numbers(files)
    source = MergedSource([open_source(file, weights) for file in files], META_JOINS)
    for name in _DESCRIPTIONS:
        if (folder / name).exists():
            values = read_described(folder / name)
            model = values.get("model")
            source.config |= values | (model if isinstance(model, dict) else {})
    source.config["model_parallel_size"] = len(files)
    return source


def _check_numbers(files: list[Path]) -> None:
    """Refuse shards of which one is missing, or that stand beside the whole."""
    numbers = [re.fullmatch(r"consolidated\.(\d+)\.\w+", file.name) for file in files]
    if len(files) == 1 and numbers[0] is None:
        return
    found = [int(match[1]) for match in numbers if match]
    if found != list(range(len(files))):
        raise WeightsError(
            f"{files[0].parent} holds {', '.join(file.name for file in files)};"
            " expected is consolidated.pth alone, or all from consolidated.00.pth on"
        )


def write_shards(
    path: Path,
    specs: Mapping[str, Spec],
    read: Read,
    values: Mapping[str, Any],
    files: Mapping[str, bytes],
) -> None:
    """Write Meta's folder, one file for each of `values["model_parallel_size"]`.

    Raises:
        WeightsError: see `sinks.write_weights`.
    """
    del files  # its loader takes the tokenizer from another folder
    shards = values["model_parallel_size"]
    check_space(path, sum(spec.size for spec in specs.values()))
    with replacing(path) as temporary:
        temporary.mkdir()
        for name in _DESCRIPTIONS:
            contents = (
                {"model": dict(values)}
                if name == "params.json"
                else {"model_parallel_size": shards}
            )
            (temporary / name).write_text(json.dumps(contents, indent=2) + "\n")
        for rank in range(shards):
            name = f"consolidated.{rank:02}.pth" if shards > 1 else "consolidated.pth"

            def part(key: str, rank: int = rank) -> np.ndarray:
                return _part(read(key), join_of(key, META_JOINS), rank, shards)

            parts = {
                key: Spec(
                    _part(
                        np.broadcast_to(False, spec.shape),
                        join_of(key, META_JOINS),
                        rank,
                        shards,
                    ).shape,
                    spec.dtype,
                )
                for key, spec in specs.items()
            }
            write_weights(temporary / name, parts, part, {})


def _part(array: np.ndarray, join: int | str, rank: int, shards: int) -> np.ndarray:
    """What one shard has of a whole tensor."""
    if join == "stack":
        return array[rank]
    if isinstance(join, int):
        return np.ascontiguousarray(np.split(array, shards, axis=join)[rank])
    return array
