"""The `jax` format: parameters of our own checkpoints, read and written in slices.

A training run writes its checkpoints through Orbax (`unitoken_jax/checkpoint`); this
module reads the parameters of such a checkpoint and writes ones that training,
generation and evaluation restore, without ever holding a whole stack of layers: Orbax
lays the files out, TensorStore moves the slices. The folder is

    PATH/config.json              {"model": …}, as a run's own config.json has it, and
                                  under `published` what a published source said
    PATH/checkpoints/0/state      the parameters, under `params`
"""

import asyncio
import errno
import json
import os
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from flax import traverse_util
from orbax.checkpoint import type_handlers

from unitoken_jax.checkpoint import digests
from unitoken_jax.checkpoint.reader import CheckpointError, find_intact, steps
from unitoken_jax.convert.files.sinks import check_space, refuse_existing, replacing
from unitoken_jax.convert.tensors import Reader, Spec, WeightsError
from unitoken_jax.files import read_json
from unitoken_jax.renamed import parameter, translate

_CHUNK_BYTES = 2**26  # what one read moves at least, of a large parameter
_WAITING_BYTES = 2**27  # how much is written at once


class CheckpointReader:
    """The parameters of the newest checkpoint of a run, from disk slice by slice."""

    def __init__(self, path: Path, weights: str = "params") -> None:
        """Open the checkpoint below `path` (a stage's folder or its `checkpoints`).

        Args:
            path: of the stage.
            weights: "params", or "average" for their moving average.

        Raises:
            WeightsError: there is no complete checkpoint of ours, or it has no average.
        """
        folder = _newest(path) / "state"
        self._folder = folder
        below = ("optimizer", "average") if weights == "average" else ("params",)
        try:
            described = read_json((folder / "_METADATA").read_bytes())
            names = [
                tuple(part["key"] for part in entry["key_metadata"])
                for entry in described["tree_metadata"].values()
            ]
            opened = {
                parameter("/".join(name[len(below) :])): _open(
                    folder, ".".join(name), described
                )
                for name in names
                if name[: len(below)] == below
            }
            self._stores = {path: store.result() for path, store in opened.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
            raise _incomplete(folder, fault) from fault
        if not self._stores and weights == "average":
            raise WeightsError(
                f"{folder} holds no average of the parameters; train with"
                " train.average, or use --weights=params"
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


def _incomplete(folder: Path, fault: Exception) -> WeightsError:
    said = (str(fault).splitlines() or [type(fault).__name__])[0]
    return WeightsError(
        f"{folder} is not a complete checkpoint ({said[:300]}); take another one, or"
        " convert again"
    )


def _open(folder: Path, name: str, described: Mapping[str, Any]) -> Any:
    """A stored array (a future of it), in whichever layout Orbax wrote it."""
    if described.get("use_ocdbt"):
        base = f"file://{folder}/"
        where = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    else:
        where = {"driver": "file", "path": f"{folder}/{name}/"}
    driver = "zarr3" if described.get("use_zarr3") else "zarr"
    spec = tensorstore.Spec({"driver": driver, "kvstore": where})
    return tensorstore.open(spec, open=True, read=True)


def read_config(path: Path) -> dict[str, Any]:
    """The configuration beside a checkpoint; its `model` says which model it is.

    Raises:
        WeightsError: there is none, or it is not ours.
    """
    file = _stage(path) / "config.json"
    try:
        described, _ = translate(dict(read_json(file.read_bytes())))
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
    model: Mapping[str, Any],
    published: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write parameters as a checkpoint, one slice in memory at a time.

    Args:
        path: a folder that does not exist yet.
        reader: the parameters.
        model: the model's configuration, of primitives, with its `kind`.
        published: what a published source said of the model, kept for the way back.
        files: what else the folder holds, by name.

    Raises:
        WeightsError: the path is taken, the disk is full, or a parameter cannot be
            read.
    """
    refuse_existing(path)
    specs = reader.specs
    check_space(path, sum(spec.size for spec in specs.values()))
    registry = type_handlers.create_type_handler_registry(
        (_Sliced, _SlicedHandler()),
        (jax.Array, type_handlers.ArrayHandler()),
    )
    leaves = {key: _Sliced(reader, key, spec) for key, spec in specs.items()}
    tree = {"params": traverse_util.unflatten_dict(leaves, sep="/")}
    with replacing(path) as temporary:
        temporary.mkdir()
        described = {"model": dict(model), "published": dict(published or {})}
        text = json.dumps(described, indent=2, sort_keys=True, default=str)
        (temporary / "config.json").write_text(text + "\n")
        for name, content in (files or {}).items():
            (temporary / name).write_bytes(content)
        handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
        with ocp.Checkpointer(handler) as writer:
            target = (temporary / "checkpoints" / "0" / "state").absolute()
            target.parent.mkdir(parents=True)
            try:
                writer.save(target, args=ocp.args.PyTreeSave(tree))  # pyright: ignore[reportCallIssue]
            except Exception as fault:  # Orbax wraps what a reader or a disk says
                raise _unwrapped(fault) from fault
        digests.seal(target.parent)


def _unwrapped(fault: Exception) -> Exception:
    """What is behind an error of Orbax: a sentence of ours, or a full disk."""
    behind: BaseException | None = fault
    while behind is not None:
        if isinstance(behind, WeightsError):
            return behind
        if isinstance(behind, OSError):
            return behind
        if "RESOURCE_EXHAUSTED" in str(behind) or "No space left" in str(behind):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        behind = behind.__cause__ or behind.__context__
    return fault


class _Sliced:
    """A parameter that has not been read: a leaf for Orbax."""

    def __init__(self, reader: Reader, path: str, spec: Spec) -> None:
        self.reader, self.path = reader, path
        self.shape, self.dtype = spec
        self.depth = reader.stacked(path)


class _SlicedHandler(type_handlers.NumpyHandler):
    """Writes `_Sliced` leaves as Orbax writes NumPy arrays, in chunks of a slice."""

    async def serialize(
        self,
        values: Sequence[Any],
        infos: Sequence[type_handlers.ParamInfo],
        args: Sequence[type_handlers.SaveArgs] | None = None,
    ) -> Sequence[Any]:
        """Write slice after slice, a few of them at once."""
        args = args or [type_handlers.SaveArgs()] * len(values)
        for info in infos:
            await info.await_path_creation()
        stores = await asyncio.gather(*map(_create, values, infos, args))
        writes: list[Awaitable[Any]] = []
        waiting = 0  # bytes
        try:
            for value, store in zip(values, stores, strict=True):
                for index in np.ndindex(value.shape[: value.depth]):
                    array = value.reader.read(value.path, index)
                    writes.append(store[index].write(array))
                    waiting += array.nbytes
                    if waiting > _WAITING_BYTES:
                        await asyncio.gather(*writes)
                        writes, waiting = [], 0
            await asyncio.gather(*writes)
        finally:
            # After a fault nobody may go on writing into a folder that is removed.
            await asyncio.gather(*writes, return_exceptions=True)
        return []


async def _create(
    value: _Sliced, info: type_handlers.ParamInfo, arg: type_handlers.SaveArgs
) -> tensorstore.TensorStore:
    """An empty array where and how Orbax would write the leaf."""
    use_ocdbt = bool(info.is_ocdbt_checkpoint)
    spec = type_handlers.get_json_tspec_write(
        info,
        use_ocdbt=use_ocdbt,
        global_shape=value.shape,
        local_shape=value.shape,
        dtype=value.dtype,
        process_index=0 if use_ocdbt else None,
        arg=arg,
    )
    chunk = _chunk(value.shape[value.depth :], value.dtype.itemsize)
    spec["metadata"]["chunks"] = (1,) * value.depth + chunk
    return await tensorstore.open(
        tensorstore.Spec(spec), create=True, open=True, context=info.ts_context
    )


def _chunk(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """`shape` cut along its first axis into chunks of at most `_CHUNK_BYTES`."""
    if not shape:
        return ()
    row = int(np.prod(shape[1:], dtype=np.int64)) * itemsize
    rows = max(1, min(shape[0], _CHUNK_BYTES // max(1, row)))
    return (rows, *shape[1:])


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
