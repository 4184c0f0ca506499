"""PyTorch files: opened without running code of their author, and chosen from.

A checkpoint of a training holds more than one set of weights (`model`, `ema`, the
optimizer's): the sets are found by what they are, mappings of names to tensors, and one
is chosen.
"""

import argparse
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unitoken_jax.convert.files import recognize
from unitoken_jax.convert.tensors import WeightsError

# Sets that are taken where none is named, in this order: the published trainers'.
_USUAL = (("trainer", "unitok"), ("state_dict",), ("model",), ("module",))
_DEEP = 4  # how many mappings a set may lie under


def read_contents(path: Path) -> Mapping[str, object]:
    """The contents of a PyTorch file, tensors and plain values only.

    Raises:
        WeightsError: it cannot be read, is another kind of file, damaged, or holds
            more than tensors and plain values; or PyTorch is missing.
    """
    head = recognize.look(path)
    if head[8:9] == b"{" and not head.startswith((b"PK", b"\x80")):
        raise WeightsError(
            f"{path} is a safetensors file and not PyTorch's; rename it to end in"
            " .safetensors"
        )
    if head.startswith(b"\x80") and len(head) < 20:
        raise WeightsError(f"{path} is cut off; download it again")
    try:
        import torch  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as fault:
        raise WeightsError(
            f"{path} is a PyTorch pickle, which only PyTorch can read safely; install"
            " requirements-torch.txt, or turn it into safetensors where PyTorch is"
        ) from fault
    whole = _is_whole_zip(path)
    if head.startswith(b"PK") and not whole:
        raise WeightsError(f"{path} is cut off; download it again")
    try:
        # LlamaGen's files hold their arguments so: a container of plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Only the zip layout (PyTorch 1.6 on) can be mapped instead of read.
            contents = torch.load(
                path, map_location="cpu", weights_only=True, mmap=whole
            )
    except pickle.UnpicklingError as fault:
        raise WeightsError(
            f"{path} holds more than tensors and plain values, or is damaged; reading"
            " it could run code from the file, so it is refused. Where you trust its"
            " origin, save its state dict alone: torch.save(state_dict, ...) or"
            " safetensors"
        ) from fault
    except Exception as fault:  # torch has no single type for a damaged file
        raise WeightsError(
            f"{path} is not a PyTorch weight file, or is damaged"
            f" ({type(fault).__name__}); download it again"
        ) from fault
    if not isinstance(contents, Mapping):
        raise WeightsError(
            f"{path} holds a {type(contents).__name__} and not a state dict; save"
            " `model.state_dict()` instead"
        )
    return contents


def _is_whole_zip(path: Path) -> bool:
    try:
        with recognize.reading(path):
            return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def choose_set(
    contents: Mapping[str, object], wanted: str | None, where: str
) -> tuple[Mapping[str, object], str, list[str]]:
    """One of the sets of weights of a file.

    Args:
        contents: of the file.
        wanted: names of the mappings it lies under, joined by "/" or "."; None takes
            the usual one.
        where: the file, for messages.

    Returns:
        Its tensors, its name ("" for the whole file), and the names of the others.

    Raises:
        WeightsError: there is no such set, none at all, or several of which none is
            usual.
    """
    sets = dict(_sets(contents, ()))
    names = {"/".join(path): path for path in sets}
    if wanted is not None:
        chosen = names.get(wanted.strip("/").replace(".", "/"))
        if chosen is None:
            raise WeightsError(f"{where} holds no weights {wanted!r}; {_holds(sets)}")
    elif () in sets or len(sets) == 1:
        chosen = () if () in sets else next(iter(sets))
    else:
        chosen = next((path for path in _USUAL if path in sets), None)
        if chosen is None and sets:
            raise WeightsError(
                f"{where} holds several sets of weights; choose one with --weights:"
                f" {_holds(sets)}"
            )
        if chosen is None:
            raise WeightsError(
                f"{where} holds no tensors by name, but {_listed(contents)}; give a"
                " file of weights"
            )
    others = [name for name, path in names.items() if path != chosen and name]
    return sets[chosen], "/".join(chosen), others


def arguments(contents: Mapping[str, object]) -> dict[str, Any]:
    """What a trainer stored of its arguments."""
    args = contents.get("args")
    if isinstance(args, argparse.Namespace):
        args = vars(args)
    if not isinstance(args, Mapping):
        return {}
    return {str(key): value for key, value in args.items()}


def _sets(
    node: Mapping[Any, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, object]]]:
    """Mappings that hold tensors by name, and where; those of optimizers by number."""
    if any(isinstance(key, str) and _is_tensor(value) for key, value in node.items()):
        yield path, node
        return
    if len(path) == _DEEP:
        return
    for key, value in node.items():
        if isinstance(key, str) and isinstance(value, Mapping) and key != "args":
            yield from _sets(value, (*path, key))


def _is_tensor(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _holds(sets: Mapping[tuple[str, ...], Mapping[str, object]]) -> str:
    """The sets of a file with their sizes."""
    texts = []
    for path, tensors in sets.items():
        shapes = (getattr(value, "shape", None) for value in tensors.values())
        sizes = [math.prod(shape) for shape in shapes if shape is not None]
        name = "/".join(path) or "the whole file"
        texts.append(f"{name} ({len(sizes):,} tensors, {sum(sizes):,} numbers)")
    return f"it holds {', '.join(texts) or 'none'}"


def _listed(contents: Mapping[str, object]) -> str:
    names = [str(name) for name in contents]
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "") or "nothing"
