"""Meta's folders: `consolidated.pth`, or one file for each model-parallel shard."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unitoken_jax.convert.chameleon import META_JOINS
from unitoken_jax.convert.sinks import Read, check_space, replacing, write_weights
from unitoken_jax.convert.sources import MergedSource, Source, join_of, open_source
from unitoken_jax.convert.table import Spec, WeightsError

_DESCRIPTIONS = ("params.json", "consolidate_params.json")


def open_shards(path: Path) -> Source:
    """Open a folder of shards, or one shard that is the whole, as one source.

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
    source = MergedSource([open_source(file) for file in files], META_JOINS)
    for name in _DESCRIPTIONS:
        if (folder / name).exists():
            source.config |= _described(folder / name)
    source.config["model_parallel_size"] = len(files)
    return source


def _described(path: Path) -> dict[str, Any]:
    try:
        values = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as fault:
        raise WeightsError(
            f"{path} is not a JSON object ({fault}); download it again"
        ) from fault
    return values | dict(values.get("model") or {})


def write_shards(
    path: Path, specs: Mapping[str, Spec], read: Read, values: Mapping[str, Any]
) -> None:
    """Write Meta's folder, one file for each of `values["model_parallel_size"]`.

    Raises:
        WeightsError: see `sinks.write_weights`.
    """
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
