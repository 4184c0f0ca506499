"""Writers of published weight files: streamed, sharded, complete or not there at all.

A writer knows every name, shape and type before the first number, so that a file's
header is written first and the tensors follow one by one; memory holds one tensor.
Everything is written under a temporary name beside the target and renamed at the end.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from unitoken_jax.checkpoint.weights_file import METADATA
from unitoken_jax.convert.files.safetensors import DTYPES
from unitoken_jax.convert.files.sources import INDEXES, PICKLES, WHOLE
from unitoken_jax.convert.tensors import Spec, WeightsError

SHARD_BYTES = 5 * 10**9  # what the Hugging Face hub uses
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
Read = Callable[[str], np.ndarray]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` if the block ends well, else vanishes.

    Raises:
        WeightsError: `path` exists already; nothing is overwritten.
    """
    refuse_existing(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as fault:
        raise WeightsError(
            f"writing {path} failed ({fault.strerror or fault}); nothing is left of it"
        ) from fault
    finally:
        with contextlib.suppress(OSError):
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink(missing_ok=True)


def refuse_existing(path: Path) -> None:
    """Refuse to write where something is, a broken link too.

    Raises:
        WeightsError: something is there.
    """
    if not path.name:
        raise WeightsError(f"{path} is no name of a file or folder to write")
    if os.path.lexists(path):
        raise WeightsError(f"{path} exists already; remove it or choose another output")


def check_space(path: Path, size: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        WeightsError: fewer than `size` bytes are free where `path` will be.
    """
    folder = path.absolute()
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise WeightsError(
            f"{path} cannot be written: {folder} is a file and no folder"
        )
    free = shutil.disk_usage(folder).free
    if free < size:
        raise WeightsError(
            f"{path} needs {size / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB"
            " free; make room or choose another disk"
        )


def write_weights(
    path: Path,
    specs: Mapping[str, Spec],
    read: Read,
    config: Mapping[str, object] | None = None,
    files: Mapping[str, bytes] | None = None,
    *,
    wrap: tuple[str, ...] = (),
    beside: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write published tensors in the file kind that the path's ending says.

    Args:
        path: `….safetensors` is one file, `….pth`, `.pt`, `.bin` or `.ckpt` a PyTorch
            file (needs PyTorch), anything else a folder in the layout of the Hugging
            Face hub.
        specs: shape and type of every tensor.
        read: name → numbers, C-ordered; called once for each.
        config: `config.json` of a folder; in the metadata of a safetensors file; of a
            PyTorch file see `beside`.
        files: what a folder holds beside, by name.
        wrap: keys under which a PyTorch file nests the state dict.
        beside: where a PyTorch file has its configuration: "args" is within it, ".yaml"
            and ".json" are files of the same stem.
        shard_bytes: a folder's files are at most this long (one tensor may exceed it).

    Raises:
        WeightsError: the path is taken, the disk is full, or PyTorch is missing.
    """
    refuse_existing(path)
    check_space(path, sum(spec.size for spec in specs.values()))
    config = dict(config or {})
    if path.suffix in PICKLES and config and beside in (".json", ".yaml"):
        name = "config.json" if path.name in WHOLE else f"{path.stem}{beside}"
        content = _yaml(config) if beside == ".yaml" else _json(config)
        with replacing(path.with_name(name)) as described:
            described.write_bytes(content)
            _write_torch(path, specs, read, wrap, {})
        return
    if path.suffix in PICKLES:
        _write_torch(path, specs, read, wrap, {"args": config} if beside else {})
        return
    with replacing(path) as temporary:
        if path.suffix == ".safetensors":
            metadata = {METADATA: json.dumps(config, sort_keys=True)} if config else {}
            _write_file(temporary, specs, read, metadata)
            return
        temporary.mkdir()
        if config:
            (temporary / "config.json").write_bytes(_json(config))
        for name, content in (files or {}).items():
            (temporary / name).write_bytes(content)
        _write_shards(temporary, specs, read, shard_bytes)


def _json(content: Mapping[str, object]) -> bytes:
    text = json.dumps(content, indent=2, sort_keys=True, default=str)
    return f"{text}\n".encode()


def _yaml(content: Mapping[str, object]) -> bytes:
    plain = json.loads(json.dumps(content))  # no tuples
    return yaml.safe_dump({"model": {"params": plain}}, sort_keys=False).encode()


def _write_shards(
    folder: Path,
    specs: Mapping[str, Spec],
    read: Read,
    shard_bytes: int,
) -> None:
    shards: list[dict[str, Spec]] = [{}]
    filled = 0
    for key, spec in specs.items():
        if filled and filled + spec.size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][key] = spec
        filled += spec.size
    if len(shards) == 1:
        _write_file(folder / WHOLE[0], specs, read)
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / name, shard, read)
        weight_map |= dict.fromkeys(shard, name)
    total = sum(spec.size for spec in specs.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEXES[0]).write_text(json.dumps(index, indent=2) + "\n")


def _write_file(
    path: Path,
    specs: Mapping[str, Spec],
    read: Read,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """One safetensors file: length of the header, header, the tensors in its order."""
    # Wide types first, so that every tensor begins at a multiple of its item size.
    names = sorted(specs, key=lambda key: -specs[key].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for key in names:
        end = offset + specs[key].size
        header[key] = {
            "dtype": _NAMES[specs[key].dtype],
            "shape": list(specs[key].shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for key in names:
            array = read(key)
            if Spec(array.shape, array.dtype) != specs[key]:
                raise WeightsError(
                    f"{key} is {array.shape} {array.dtype} and was announced as"
                    f" {specs[key].shape} {specs[key].dtype}"
                )
            file.write(array.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def _write_torch(
    path: Path,
    specs: Mapping[str, Spec],
    read: Read,
    wrap: tuple[str, ...],
    more: Mapping[str, object],
) -> None:
    """One PyTorch file: the state dict under the keys of `wrap`, and `more` beside."""
    try:
        import torch  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as fault:
        raise WeightsError(
            f"writing a PyTorch file ({path.suffix}) needs PyTorch; install"
            " requirements-torch.txt, or write a .safetensors file, which every"
            " published loader's weights fit as well"
        ) from fault
    contents: Any = {}
    for key in specs:
        array = read(key)
        name = array.dtype.name
        # NumPy's bfloat16 is unknown to PyTorch: the bits travel as integers.
        words = array.view(np.uint16).copy() if name == "bfloat16" else array.copy()
        tensor = torch.from_numpy(words)
        contents[key] = tensor.view(torch.bfloat16) if name == "bfloat16" else tensor
    for name in reversed(wrap):
        contents = {name: contents}
    with replacing(path) as temporary:
        try:
            torch.save({**contents, **more}, temporary)
        except RuntimeError as fault:  # what a full disk is to PyTorch
            raise OSError(str(fault).splitlines()[0]) from fault
