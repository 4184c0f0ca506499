"""Published weight files as lazy mappings: name → array, one tensor read at a time.

safetensors files (one, or shards with an index) are read by plain file reads, so that
memory holds one tensor and not the mapped file. PyTorch pickles are opened by
`torch.load(weights_only=True)` alone; whatever else they hold is refused, because
unpickling runs code of the file's author.
"""

import argparse
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import yaml
from safetensors import SafetensorError, safe_open

from unitoken_jax.convert.table import Spec, WeightsError

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "I64": np.int64,
        "I32": np.int32,
        "I16": np.int16,
        "I8": np.int8,
        "U64": np.uint64,
        "U32": np.uint32,
        "U16": np.uint16,
        "U8": np.uint8,
        "BOOL": np.bool_,
    }.items()
}
PICKLES = (".pth", ".pt", ".bin", ".ckpt")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")
CONFIGS = ("config.json", "open_clip_config.json")


class Source(Mapping[str, np.ndarray]):
    """Published tensors by name, read when asked for.

    Attributes:
        where: the path (or a description), for messages.
        config: what the source says about its model: its `config.json`, or the `args`
            stored beside the weights; empty when it says nothing.
    """

    def __init__(
        self, where: str, specs: Mapping[str, Spec], config: Mapping[str, Any]
    ) -> None:
        self.where = where
        self.config = dict(config)
        self._specs = dict(specs)

    def spec(self, key: str) -> Spec:
        """Shape and type of a tensor, without reading it."""
        return self._specs[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def __contains__(self, key: object) -> bool:
        return key in self._specs


class ArraySource(Source):
    """A mapping of name → array (NumPy, JAX or PyTorch) in memory."""

    def __init__(
        self,
        arrays: Mapping[str, Any],
        where: str = "the given mapping",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._arrays = dict(arrays)
        specs = {}
        for key, array in self._arrays.items():
            if not hasattr(array, "shape") or not hasattr(array, "dtype"):
                raise WeightsError(
                    f"{where}: {key} is a {type(array).__name__}, not a tensor; give"
                    " the mapping of name → tensor (the state dict) itself"
                )
            specs[key] = Spec(tuple(array.shape), _dtype_of(array))
        super().__init__(where, specs, config or {})

    def __getitem__(self, key: str) -> np.ndarray:
        return _as_numpy(self._arrays[key])


class SafetensorsSource(Source):
    """One or several safetensors files."""

    def __init__(
        self, files: Mapping[Path, list[str] | None], config: Mapping[str, Any]
    ) -> None:
        """Open `files`: path → the names an index expects in it (None for all)."""
        self._places: dict[str, tuple[Path, int]] = {}
        specs: dict[str, Spec] = {}
        for path, expected in files.items():
            for key, (spec, offset) in _header(path).items():
                if key in specs:
                    raise WeightsError(
                        f"{key} is in {path} and in {self._places[key][0]}; one of the"
                        " two files does not belong to this checkpoint"
                    )
                specs[key] = spec
                self._places[key] = (path, offset)
            absent = [key for key in expected or () if key not in specs]
            if absent:
                raise WeightsError(
                    f"the index says that {path} holds {absent[0]}"
                    f" ({len(absent)} such names), and it does not; download the file"
                    " and its index again"
                )
        super().__init__(str(next(iter(files))), specs, config)

    def __getitem__(self, key: str) -> np.ndarray:
        path, offset = self._places[key]
        shape, dtype = self._specs[key]
        count = int(np.prod(shape, dtype=np.int64))
        array = np.fromfile(path, dtype, count, offset=offset)
        return array.reshape(shape)


class PartSource(Source):
    """The tensors of another source whose names begin with a prefix, without it."""

    def __init__(self, source: Source, prefix: str) -> None:
        self._source = source
        self._prefix = prefix
        specs = {
            key.removeprefix(prefix): source.spec(key)
            for key in source
            if key.startswith(prefix)
        }
        super().__init__(source.where, specs, source.config)

    def __getitem__(self, key: str) -> np.ndarray:
        return self._source[self._prefix + key]


class MergedSource(Source):
    """The shards of a model-parallel checkpoint, joined tensor by tensor.

    `joins` gives for a name the axis on which its shards are concatenated, "stack" to
    put them on a new first axis, or "mean" for tensors that every shard repeats.
    """

    def __init__(self, shards: list[Source], joins: Mapping[str, int | str]) -> None:
        self._shards = shards
        self._joins = joins
        specs = {}
        for key in shards[0]:
            alone = [shard.where for shard in shards if key not in shard]
            if alone:
                raise WeightsError(
                    f"{key} is in {shards[0].where} and not in {alone[0]}; the two are"
                    " not shards of one checkpoint"
                )
            specs[key] = self._joined_spec(key)
        super().__init__(shards[0].where, specs, shards[0].config)

    def _joined_spec(self, key: str) -> Spec:
        shape, dtype = self._shards[0].spec(key)
        join = join_of(key, self._joins)
        if join == "stack":
            return Spec((len(self._shards), *shape), dtype)
        if isinstance(join, int):
            total = sum(shard.spec(key).shape[join] for shard in self._shards)
            shape = (*shape[:join], total, *shape[join + 1 :])
        return Spec(shape, dtype)

    def __getitem__(self, key: str) -> np.ndarray:
        join = join_of(key, self._joins)
        parts = [shard[key] for shard in self._shards]
        if join == "stack":
            return np.stack(parts)
        if isinstance(join, int):
            return np.concatenate(parts, axis=join)
        if all(np.array_equal(part, parts[0]) for part in parts):
            return parts[0]
        return np.mean([part.astype(np.float64) for part in parts], axis=0).astype(
            parts[0].dtype
        )


def join_of(key: str, joins: Mapping[str, int | str]) -> int | str:
    """How the shards of a tensor are joined; layers are alike.

    Raises:
        WeightsError: `joins` does not say.
    """
    leaf = re.sub(r"^layers\.\d+\.", "", key)
    if leaf not in joins:
        raise WeightsError(
            f"it is not known how the model-parallel shards of {key} are joined; known"
            f" are {', '.join(joins)}"
        )
    return joins[leaf]


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a weight file, or a folder in the layout of the Hugging Face hub.

    Raises:
        WeightsError: nothing is there, a shard is missing or cut off, or the file
            would have to be unpickled unsafely.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise WeightsError(f"{path} does not exist; give a weight file or its folder")
    if path.name.endswith(".index.json"):
        return _open_index(path, _read_config(path.parent))
    if path.suffix == ".safetensors":
        return SafetensorsSource({path: None}, _read_config(path.parent))
    if path.suffix in PICKLES:
        return _open_pickle(path)
    raise WeightsError(
        f"{path} is none of the weight files that can be read: .safetensors,"
        f" {', '.join(PICKLES)}, or a folder of them"
    )


def _open_folder(path: Path) -> Source:
    config = _read_config(path)
    for name in INDEXES:
        if (path / name).exists():
            return _open_index(path / name, config)
    for name in WHOLE:
        if (path / name).exists():
            return _open_whole(path / name, config)
    files = [
        file
        for file in sorted(path.iterdir())
        if file.suffix == ".safetensors" or file.suffix in PICKLES
    ]
    if len(files) == 1:
        return _open_whole(files[0], config)
    if files:
        raise WeightsError(
            f"{path} holds {len(files)} weight files and no index"
            f" ({', '.join(INDEXES)}); name one file, or add the index"
        )
    raise WeightsError(
        f"{path} holds no weight file; expected {WHOLE[0]}, {INDEXES[0]}, or one file"
        f" ending in .safetensors or {', '.join(PICKLES)}"
    )


def _open_whole(path: Path, config: Mapping[str, Any]) -> Source:
    if path.suffix == ".safetensors":
        return SafetensorsSource({path: None}, config)
    return _open_pickle(path)


def _open_index(path: Path, config: Mapping[str, Any]) -> Source:
    try:
        weight_map: Mapping[str, str] = json.loads(path.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as fault:
        raise WeightsError(
            f"{path} is not an index of shards (a JSON object with a weight_map);"
            " download it again"
        ) from fault
    names: dict[Path, list[str]] = {}
    for key, name in weight_map.items():
        names.setdefault(path.parent / name, []).append(key)
    missing = [file.name for file in names if not file.exists()]
    if missing:
        raise WeightsError(
            f"{path} lists {len(names)} shards and {len(missing)} of them are not"
            f" there: {', '.join(missing)}; download them beside the index"
        )
    if path.name == INDEXES[0] or all(f.suffix == ".safetensors" for f in names):
        return SafetensorsSource(names, config)
    arrays: dict[str, Any] = {}
    for file in names:
        arrays |= _load_pickle(file)
    return ArraySource(arrays, str(path), config)


def _header(path: Path) -> dict[str, tuple[Spec, int]]:
    """Name → (shape and type, offset in the file) of a safetensors file."""
    try:
        with safe_open(path, "numpy"):  # the library checks the file's structure
            pass
    except (SafetensorError, OSError) as fault:
        raise WeightsError(
            f"{path} is not a complete safetensors file ({fault}); it was cut off or"
            " damaged, download it again"
        ) from fault
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(size))
    header = {}
    for key, entry in entries.items():
        if key == "__metadata__":
            continue
        if entry["dtype"] not in DTYPES:
            raise WeightsError(
                f"{path}: {key} has the type {entry['dtype']}, which is not supported;"
                f" known are {', '.join(DTYPES)}"
            )
        spec = Spec(tuple(entry["shape"]), DTYPES[entry["dtype"]])
        header[key] = (spec, 8 + size + entry["data_offsets"][0])
    return header


def _read_config(folder: Path) -> dict[str, Any]:
    found = [folder / name for name in CONFIGS if (folder / name).exists()]
    if not found:
        return {}
    path = found[0]
    try:
        config = json.loads(path.read_text())
    except ValueError as fault:
        raise WeightsError(
            f"{path} is not JSON ({fault}); download it again"
        ) from fault
    return config if isinstance(config, dict) else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as fault:
        raise WeightsError(f"{path} is not YAML ({fault})") from fault
    return config if isinstance(config, dict) else {}


def _open_pickle(path: Path) -> Source:
    contents = _load_pickle(path)
    state, inner = contents, path.name
    # The wrappers that published files put around their state dict.
    for names in (("trainer", "unitok"), ("state_dict",), ("model",), ("module",)):
        nested = contents
        for name in names:
            nested = nested.get(name) if isinstance(nested, Mapping) else None
        if isinstance(nested, Mapping):
            state, inner = nested, f"{path.name}[{']['.join(names)}]"
            break
    config = _read_config(path.parent) or _read_yaml(path.with_suffix(".yaml"))
    args = contents.get("args")
    if isinstance(args, argparse.Namespace):
        args = vars(args)
    if isinstance(args, Mapping):
        config = config | {str(key): value for key, value in args.items()}
    return ArraySource(state, str(path.with_name(inner)), config)


def _load_pickle(path: Path) -> Mapping[str, Any]:
    """The contents of a PyTorch file, tensors and plain values only."""
    try:
        import torch  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as fault:
        raise WeightsError(
            f"{path} is a PyTorch pickle, which only PyTorch can read safely; install"
            " requirements-torch.txt, or turn it into safetensors where PyTorch is"
        ) from fault
    whole = zipfile.is_zipfile(path)
    with path.open("rb") as file:
        if file.read(2) == b"PK" and not whole:
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
            f"{path} holds more than tensors and plain values; reading it would run"
            " code from the file, so it is refused. Where you trust its origin, save"
            " its state dict alone: torch.save(state_dict, ...) or safetensors"
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


def _is_torch(array: Any) -> bool:
    return type(array).__module__.partition(".")[0] == "torch"


def _dtype_of(array: Any) -> np.dtype:
    if _is_torch(array):
        return np.dtype(str(array.dtype).removeprefix("torch."))
    return np.dtype(array.dtype)


def _as_numpy(array: Any) -> np.ndarray:
    """A NumPy array of the same bits."""
    if not _is_torch(array):
        return np.asarray(array)
    dtype = _dtype_of(array)
    array = array.detach().cpu().contiguous()
    if dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
        import torch  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

        # NumPy has no such type: the bits travel as integers.
        words = torch.int16 if dtype.itemsize == 2 else torch.int8
        return array.view(words).numpy().view(dtype)
    return array.numpy()
