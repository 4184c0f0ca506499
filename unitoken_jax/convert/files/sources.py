"""Published weight files as lazy mappings: name → array, one tensor read at a time.

safetensors files (one, or shards with an index) are read by plain file reads, so that
memory holds one tensor and not the mapped file. PyTorch pickles are opened by
`torch.load(weights_only=True)` alone; whatever else they hold is refused, because
unpickling runs code of the file's author.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import yaml

from unitoken_jax.checkpoint.weights_file import METADATA
from unitoken_jax.convert.files import recognize
from unitoken_jax.convert.files.pytorch import arguments, choose_set, read_contents
from unitoken_jax.convert.files.safetensors import read_header
from unitoken_jax.convert.tensors import Spec, WeightsError
from unitoken_jax.files import read_json

log = logging.getLogger(__name__)

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")
CONFIGS = ("config.json", "open_clip_config.json")
# What wrappers put into the names of what they wrap, anywhere or in front of all.
_WRAPPED = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_FRONT = "module."


class Source(Mapping[str, np.ndarray]):
    """Published tensors by name, read when asked for.

    Attributes:
        where: the path (or a description), for messages.
        config: what the source says about its model: its `config.json`, or the `args`
            stored beside the weights; empty when it says nothing.
    """

    def __init__(
        self, where: str, specs: Mapping[str, Spec], config: Mapping[str, object]
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
        config: Mapping[str, object] | None = None,
    ) -> None:
        """Check that the mapping holds arrays by name.

        Raises:
            WeightsError: a name is no text, or a value no array that can be read.
        """
        self._arrays = dict(arrays)
        specs = {}
        for key, array in self._arrays.items():
            if not isinstance(key, str):
                raise WeightsError(f"{where}: {key!r} is no name of a tensor")
            if not hasattr(array, "shape") or not hasattr(array, "dtype"):
                raise WeightsError(
                    f"{where}: {key} is a {type(array).__name__}, not a tensor; is"
                    " this a checkpoint with more in it than weights?"
                )
            specs[key] = Spec(tuple(array.shape), _dtype_of(array, f"{where}: {key}"))
        super().__init__(where, specs, config or {})

    def __getitem__(self, key: str) -> np.ndarray:
        return _as_numpy(self._arrays[key])


class SafetensorsSource(Source):
    """One or several safetensors files."""

    def __init__(
        self, files: Mapping[Path, list[str] | None], config: Mapping[str, object]
    ) -> None:
        """Open `files`: path → the names an index expects in it (None for all)."""
        self._places: dict[str, tuple[Path, int]] = {}
        specs: dict[str, Spec] = {}
        described: dict[str, Any] = {}
        for path, expected in files.items():
            header = read_header(path)
            described |= _described_in(header.metadata, path)
            for key, (spec, offset) in header.entries.items():
                if key in specs:
                    raise WeightsError(
                        f"{key} is in {path} and in {self._places[key][0]}; one of the"
                        " two files does not belong to this checkpoint"
                    )
                specs[key] = spec
                self._places[key] = (path, offset)
            absent = [key for key in expected or () if key not in header.entries]
            if absent:
                raise WeightsError(
                    f"the index says that {path} holds {absent[0]}"
                    f" ({len(absent)} such names), and it does not; download the file"
                    " and its index again"
                )
        super().__init__(str(next(iter(files))), specs, described or config)

    def __getitem__(self, key: str) -> np.ndarray:
        path, offset = self._places[key]
        shape, dtype = self._specs[key]
        count = int(np.prod(shape, dtype=np.int64))
        with recognize.reading(path):
            array = np.fromfile(path, dtype, count, offset=offset)
        if array.size != count:
            raise WeightsError(f"{path} became shorter while it was read")
        return array.reshape(shape)


class RenamedSource(Source):
    """Another source under other names: ours → its own."""

    def __init__(self, source: Source, names: Mapping[str, str]) -> None:
        self._source = source
        self._names = names
        specs = {key: source.spec(theirs) for key, theirs in names.items()}
        super().__init__(source.where, specs, source.config)

    def __getitem__(self, key: str) -> np.ndarray:
        return self._source[self._names[key]]


def unwrapped(source: Source) -> Source:
    """A source without what DDP, FSDP and `torch.compile` put into names.

    Raises:
        WeightsError: two tensors would have one name.
    """
    names = {key: _WRAPPED.sub("", key) for key in source}
    while names and all(name.startswith(_FRONT) for name in names.values()):
        names = {key: name.removeprefix(_FRONT) for key, name in names.items()}
        names = {key: _WRAPPED.sub("", name) for key, name in names.items()}
    if all(key == name for key, name in names.items()):
        return source
    back: dict[str, str] = {}
    for key, name in names.items():
        if name in back:
            raise WeightsError(
                f"{source.where} holds {key} and {back[name]}, which are one name"
                " without their wrappers; take one of the two out"
            )
        back[name] = key
    return RenamedSource(source, back)


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
        first, *rest = shards
        for shard in rest:
            for one, other in ((first, shard), (shard, first)):
                alone = [key for key in one if key not in other]
                if alone:
                    raise WeightsError(
                        f"{alone[0]} is in {one.where} and not in {other.where}; the"
                        " two are not shards of one checkpoint"
                    )
        specs = {key: self._joined_spec(key) for key in first}
        super().__init__(first.where, specs, first.config)

    def _joined_spec(self, key: str) -> Spec:
        shape, dtype = self._shards[0].spec(key)
        join = join_of(key, self._joins)
        across = join if isinstance(join, int) else None
        for shard in self._shards:
            found = shard.spec(key)
            cut = len(found.shape) == len(shape) and all(
                size == shape[axis] or axis == across
                for axis, size in enumerate(found.shape)
            )
            too_flat = across is not None and across >= len(shape)
            if not cut or too_flat or found.dtype != dtype:
                raise WeightsError(
                    f"{key} is {shape} {dtype} in {self._shards[0].where} and"
                    f" {found.shape} {found.dtype} in {shard.where}; the two are not"
                    " shards of one checkpoint"
                )
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


def open_source(path: str | os.PathLike[str], weights: str | None = None) -> Source:
    """Open a weight file, or a folder in the layout of the Hugging Face hub.

    Args:
        path: of the file or folder.
        weights: which set of a file that holds several, such as "ema"; or the first
            part of the names that are meant.

    Raises:
        WeightsError: nothing is there, a shard is missing or cut off, the file is of
            another kind, or would have to be unpickled unsafely.
    """
    path = Path(path)
    with recognize.reading(path):
        is_folder = path.is_dir()
        if not is_folder:
            path.stat()
        source = _open_folder(path, weights) if is_folder else _open_file(path, weights)
    if not len(source):
        raise WeightsError(f"{source.where} holds no tensors; give a file of weights")
    return unwrapped(source)


def _open_file(path: Path, weights: str | None) -> Source:
    if path.name.endswith(".index.json"):
        return _part(_open_index(path, _read_config(path.parent)), weights)
    if path.suffix == ".safetensors":
        config = _read_config(path.parent)
        return _part(SafetensorsSource({path: None}, config), weights)
    if path.suffix in PICKLES:
        return _open_pickle(path, weights)
    raise WeightsError(
        f"{path} is none of the weight files that can be read: .safetensors,"
        f" {', '.join(PICKLES)}, or a folder of them"
    )


def _open_folder(path: Path, weights: str | None) -> Source:
    config = _read_config(path)
    for name in INDEXES:
        if (path / name).exists():
            return _part(_open_index(path / name, config), weights)
    for name in WHOLE:
        if (path / name).exists():
            return _open_whole(path / name, config, weights)
    files = [
        file
        for file in sorted(path.iterdir())
        if file.suffix == ".safetensors" or file.suffix in PICKLES
    ]
    if len(files) == 1:
        return _open_whole(files[0], config, weights)
    if files:
        raise WeightsError(
            f"{path} holds {len(files)} weight files and no index"
            f" ({', '.join(INDEXES)}); name one file, or add the index"
        )
    raise WeightsError(
        f"{path} holds no weight file; expected {WHOLE[0]}, {INDEXES[0]}, or one file"
        f" ending in .safetensors or {', '.join(PICKLES)}"
    )


def _open_whole(
    path: Path, config: Mapping[str, object], weights: str | None
) -> Source:
    if path.suffix == ".safetensors":
        return _part(SafetensorsSource({path: None}, config), weights)
    return _open_pickle(path, weights)


def _part(source: Source, weights: str | None) -> Source:
    """The tensors whose names begin with `weights`; all without it."""
    if weights is None:
        return source
    prefix = weights.strip("/").replace("/", ".") + "."
    part = PartSource(source, prefix)
    if not len(part):
        first = sorted({key.split(".")[0] for key in source})
        shown = ", ".join(first[:8]) + (", …" if len(first) > 8 else "")
        raise WeightsError(
            f"{source.where} holds no tensors of --weights={weights}; their names begin"
            f" with {shown}"
        )
    return part


def _open_index(path: Path, config: Mapping[str, object]) -> Source:
    content = _json_object(path)
    weight_map = content.get("weight_map")
    if (
        not isinstance(weight_map, Mapping)
        or not weight_map
        or not all(isinstance(name, str) and name for name in weight_map.values())
    ):
        raise WeightsError(
            f"{path} is not an index of shards (a JSON object with a weight_map that"
            " names files); download it again"
        )
    names: dict[Path, list[str]] = {}
    for key, name in weight_map.items():
        if name != Path(name).name or name in (".", ".."):
            raise WeightsError(
                f"{path} names the shard {name!r}, which is no file beside it"
            )
        names.setdefault(path.parent / name, []).append(key)
    missing = [file.name for file in names if not file.exists()]
    if missing:
        raise WeightsError(
            f"{path} lists {len(names)} shards and {len(missing)} of them are not"
            f" there: {', '.join(missing)}; download them beside the index"
        )
    if all(f.suffix == ".safetensors" for f in names):
        return SafetensorsSource(names, config)
    arrays: dict[str, Any] = {}
    for file, expected in names.items():
        held = read_contents(file)
        twice = [key for key in held if key in arrays]
        absent = [key for key in expected if key not in held]
        if twice or absent:
            what = f"{twice[0]} too" if twice else f"no {absent[0]}"
            raise WeightsError(
                f"{file} holds {what}, against the index; download the shards and"
                " their index again"
            )
        arrays |= held
    return ArraySource(arrays, str(path), config)


def _json_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds."""
    with recognize.reading(path):
        data = path.read_bytes()
    try:
        content = read_json(data.removeprefix(b"\xef\xbb\xbf"))
    except ValueError as fault:
        why = str(fault).removeprefix("not JSON ")
        raise WeightsError(f"{path} is not JSON {why}; download it again") from fault
    if not isinstance(content, dict):
        kind = "null" if content is None else f"a {type(content).__name__}"
        raise WeightsError(f"{path} holds {kind} and no JSON object; download it again")
    return content


def read_described(path: Path) -> dict[str, Any]:
    """The JSON object of a file that describes a model.

    Raises:
        WeightsError: it cannot be read or holds something else.
    """
    return _json_object(path)


def _described_in(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The configuration that a safetensors file of ours has in its metadata."""
    if METADATA not in metadata:
        return {}
    try:
        described = read_json(metadata[METADATA].encode())
    except ValueError as fault:
        raise WeightsError(f"{path}: its configuration is {fault}") from fault
    if not isinstance(described, dict):
        raise WeightsError(f"{path}: its configuration is no JSON object")
    return described


def _read_config(folder: Path) -> dict[str, Any]:
    found = [folder / name for name in CONFIGS if (folder / name).exists()]
    return _json_object(found[0]) if found else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    with recognize.reading(path):
        data = path.read_bytes()
    try:
        config = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as fault:
        raise WeightsError(f"{path} is not YAML ({fault})") from fault
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise WeightsError(f"{path} holds no YAML mapping of names; download it again")
    return config


def _read_beside(path: Path) -> dict[str, Any]:
    """What a file beside a PyTorch file says of its model: its own, or the folder's."""
    if path.with_suffix(".json").exists():
        return _json_object(path.with_suffix(".json"))
    if path.with_suffix(".yaml").exists():
        return _read_yaml(path.with_suffix(".yaml"))
    return _read_config(path.parent)


def _open_pickle(path: Path, weights: str | None) -> Source:
    contents = read_contents(path)
    state, name, others = choose_set(contents, weights, str(path))
    if (
        others
        and weights is None
        and any(not other.endswith("disc") for other in others)
    ):
        log.warning(
            "%s holds %s too; %s is read. --weights=NAME reads another.",
            *(path, ", ".join(others), name),
        )
    config = _read_beside(path) | arguments(contents)
    where = f"{path}[{name.replace('/', '][')}]" if name else str(path)
    return ArraySource(state, where, config)


def _is_torch(array: object) -> bool:
    return type(array).__module__.partition(".")[0] == "torch"


def _dtype_of(array: Any, where: str) -> np.dtype:
    name = str(array.dtype).removeprefix("torch.")
    if _is_torch(array) and (str(array.layout) != "torch.strided" or array.is_meta):
        kind = "has no numbers" if array.is_meta else f"is {array.layout}"
        raise WeightsError(f"{where} {kind}; save plain tensors")
    try:
        return np.dtype(name if _is_torch(array) else array.dtype)
    except TypeError as fault:
        raise WeightsError(
            f"{where} has the type {name}, which is not supported; a quantized file is"
            " to be turned back first"
        ) from fault


def _as_numpy(array: Any) -> np.ndarray:
    """A NumPy array of the same bits."""
    if not _is_torch(array):
        return np.asarray(array)
    dtype = np.dtype(str(array.dtype).removeprefix("torch."))
    array = array.detach().cpu().contiguous()
    if dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
        import torch  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

        # NumPy has no such type: the bits travel as integers.
        words = torch.int16 if dtype.itemsize == 2 else torch.int8
        return array.view(words).numpy().view(dtype)
    return array.numpy()
