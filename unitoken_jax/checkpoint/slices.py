"""Parameters in a checkpoint, read and written in slices: no whole stack in memory.

Orbax lays the files out, TensorStore moves the slices.
"""

import asyncio
import errno
import os
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from orbax.checkpoint import type_handlers

from unitoken_jax.checkpoint import digests
from unitoken_jax.checkpoint.names import current
from unitoken_jax.config import UserError
from unitoken_jax.files import read_json
from unitoken_jax.runtime.pytree import nest

_CHUNK_BYTES = 2**26  # what one read moves at least, of a large parameter
_WAITING_BYTES = 2**27  # how much is written at once


class SlicedArray(Protocol):
    """An array that is read slice by slice.

    Attributes:
        shape: of the whole.
        dtype: of its elements.
        depth: how many leading axes are read one by one.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    depth: int

    def read(self, index: tuple[int, ...]) -> np.ndarray:
        """Return the slice at `index` of the `depth` leading axes."""
        ...


def open_params(
    folder: Path, field: str = "params"
) -> dict[str, tensorstore.TensorStore]:
    """Open the arrays of a field of a stored state, by path.

    Args:
        folder: of a checkpoint.
        field: "params", or "ema" for their moving average.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: it is not complete.
    """
    state = folder / "state"
    described = read_json((state / "_METADATA").read_bytes())
    names = [
        tuple(part["key"] for part in entry["key_metadata"])
        for entry in described["tree_metadata"].values()
    ]
    paths = {current("/".join(name)): name for name in names}
    opened = {
        path.removeprefix(f"{field}/"): _open(state, ".".join(name), described)
        for path, name in paths.items()
        if path.startswith(f"{field}/")
    }
    return {path: store.result() for path, store in opened.items()}


def _open(
    folder: Path, name: str, described: Mapping[str, object]
) -> tensorstore.Future[tensorstore.TensorStore]:
    """Return a future of a stored array, in whichever layout Orbax wrote it."""
    if described.get("use_ocdbt"):
        base = f"file://{folder}/"
        where = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    else:
        where = {"driver": "file", "path": f"{folder}/{name}/"}
    driver = "zarr3" if described.get("use_zarr3") else "zarr"
    spec = tensorstore.Spec({"driver": driver, "kvstore": where})
    return tensorstore.open(spec, open=True, read=True)


def write_params(folder: Path, arrays: Mapping[str, SlicedArray]) -> None:
    """Write a checkpoint of parameters alone, with its digests.

    Args:
        folder: of the checkpoint, named by its step; made.
        arrays: the parameters by path.

    Raises:
        UserError: as an array says while it is read.
        OSError: the disk is full, or fails.
    """
    registry = type_handlers.create_type_handler_registry(
        (_Leaf, _SlicedHandler()),
        (jax.Array, type_handlers.ArrayHandler()),
    )
    tree = {"params": nest({path: _Leaf(array) for path, array in arrays.items()})}
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with ocp.Checkpointer(handler) as writer:
        target = (folder / "state").absolute()
        target.parent.mkdir(parents=True)
        try:
            writer.save(target, args=ocp.args.PyTreeSave(tree))  # pyright: ignore[reportCallIssue]
        except Exception as fault:  # Orbax wraps what a reader or a disk says
            raise _unwrapped(fault) from fault
    digests.seal(folder)


def _unwrapped(fault: Exception) -> Exception:
    """What is behind an error of Orbax: a sentence of ours, or a full disk."""
    behind: BaseException | None = fault
    while behind is not None:
        if isinstance(behind, UserError):
            return behind
        if isinstance(behind, OSError):
            return behind
        if "RESOURCE_EXHAUSTED" in str(behind) or "No space left" in str(behind):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        behind = behind.__cause__ or behind.__context__
    return fault


class _Leaf:
    """An array that has not been read: a leaf for Orbax."""

    def __init__(self, array: SlicedArray) -> None:
        self.array, self.depth = array, array.depth
        self.shape, self.dtype = array.shape, array.dtype


class _SlicedHandler(type_handlers.NumpyHandler):
    """Writes `_Leaf` leaves as Orbax writes NumPy arrays, in chunks of a slice."""

    async def serialize(
        self,
        values: Sequence[_Leaf],
        infos: Sequence[type_handlers.ParamInfo],
        args: Sequence[type_handlers.SaveArgs] | None = None,
    ) -> Sequence[object]:
        """Write slice after slice, a few of them at once."""
        args = args or [type_handlers.SaveArgs()] * len(values)
        for info in infos:
            await info.await_path_creation()
        stores = await asyncio.gather(*map(_create, values, infos, args))
        writes: list[Awaitable[object]] = []
        waiting = 0  # bytes
        try:
            for value, store in zip(values, stores, strict=True):
                for index in np.ndindex(value.shape[: value.depth]):
                    array = value.array.read(index)
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
    value: _Leaf, info: type_handlers.ParamInfo, arg: type_handlers.SaveArgs
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
