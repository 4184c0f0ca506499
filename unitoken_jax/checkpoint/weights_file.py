"""Parameters by our own names in one safetensors file, to start a training from.

Small enough to be shipped or sent, and open to any reader of the format: a name is the
path of a parameter ('encoder/conv_in/kernel'). `python -m unitoken_jax.convert --from
jax --to jax` writes one from a checkpoint and a checkpoint from one.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from unitoken_jax.checkpoint.reader import CheckpointError, Shapes
from unitoken_jax.config import nearest
from unitoken_jax.files import read_json
from unitoken_jax.renamed import parameter
from unitoken_jax.runtime.pytree import PyTree, flatten, nest

SUFFIX = ".safetensors"
METADATA = "unitoken_jax.config"  # of a safetensors file: its description as JSON
VOCABULARY = "vocabulary"
"""In the description: the digest of the text vocabulary whose ids the weights know."""


def is_weights_file(path: Path) -> bool:
    """Say whether a path is of such a file, by its name."""
    return path.suffix == SUFFIX


def vocabulary_digest(content: bytes) -> str:
    """Return a digest of a tokenizer.json, whatever spaces are between its values."""
    text = json.dumps(read_json(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_vocabulary(path: Path, tokenizer: Path) -> None:
    """Refuse weights that know the ids of another vocabulary, if they say whose.

    Args:
        path: of the file of weights.
        tokenizer: the tokenizer.json of the data.

    Raises:
        CheckpointError: they do, or the file cannot be read.
    """
    try:
        with safe_open(path, framework="np") as file:
            described = json.loads((file.metadata() or {}).get(METADATA, "{}"))
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    known = described.get(VOCABULARY)
    if known is not None and known != vocabulary_digest(tokenizer.read_bytes()):
        raise CheckpointError(
            f"{path} was trained on texts in the ids of another vocabulary than "
            f"{tokenizer}; prepare the data as they were, or train from scratch."
        )


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read ({error}); take another copy of it.")


def read_params(
    path: Path, subtree: str, choose: Callable[[Shapes], Mapping[str, PyTree]]
) -> dict[str, PyTree]:
    """Read parameters of a file to where they shall live.

    Args:
        path: of the file.
        subtree: path of the part to read ('decoder'), '' for all.
        choose: given the shapes that are there, by path within the part, returns the
            sharding of each parameter that is wanted, nested; it may refuse them.

    Returns:
        The nested parameters.

    Raises:
        CheckpointError: the file cannot be read, or has no such part.
    """
    prefix = "".join(f"{name}/" for name in filter(None, subtree.split("/")))
    try:
        with safe_open(path, framework="np") as file:
            names = {parameter(name): name for name in file.keys()}  # noqa: SIM118 - no dict
            chosen = {
                name.removeprefix(prefix): theirs
                for name, theirs in names.items()
                if name.startswith(prefix)
            }
            if not chosen:
                tops = sorted({name.split("/")[0] for name in names})
                raise CheckpointError(
                    f"{path} holds no {subtree!r}{nearest(subtree, tops)}"
                )
            shapes = {
                name: tuple(file.get_slice(theirs).get_shape())
                for name, theirs in chosen.items()
            }
            places = flatten(choose(shapes))
            return nest(
                {
                    name: _placed(file.get_tensor(chosen[name]), place)
                    for name, place in places.items()
                }
            )
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _placed(array: np.ndarray, place: PyTree) -> jax.Array:
    return jax.make_array_from_callback(array.shape, place, lambda index: array[index])
