"""Checkpoints on a fast disk of each host, between those that outlive the hosts.

Each process saves what its own devices hold, shard by shard, and waits for no other. So
they are of use only to the same number of processes on the same mesh; after a change,
or when one host is replaced, the run goes back to the newest common checkpoint, and
what hosts hold of later steps is removed. A disk that fails is done without.
"""

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from unitoken_jax.checkpoint import digests, names
from unitoken_jax.checkpoint.reader import as_steps
from unitoken_jax.checkpoint.state import TrainState, plain
from unitoken_jax.files import OptionalPath

log = logging.getLogger(__name__)

_FILE = "shards.safetensors"
_KEPT = 2


@dataclasses.dataclass(frozen=True)
class LocalConfig:
    """Save to `directory` of each host ('': not at all) every so many steps.

    A folder in memory (`/dev/shm`) survives the process but not the machine, nor the
    container whose own it is.
    """

    directory: OptionalPath = ""
    every: int = 100

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError("every must be at least 1.")


class LocalCheckpoints:
    """Saves and restores one process's part of a state.

    A checkpoint is a folder named by its step, written beside and then renamed. The
    newest two are kept: when one process ends, others may have written one more.

    Attributes:
        directory: of this process.
    """

    def __init__(self, config: LocalConfig, identity: str) -> None:
        """Use the folder of a run named by `identity`."""
        process, count = jax.process_index(), jax.process_count()
        self._root = Path(config.directory).absolute() / f"unitoken-{identity}"
        self.directory = self._root / f"process-{process}-of-{count}"
        self._is_given_up = False
        with self._tolerant():
            self.directory.mkdir(parents=True, exist_ok=True)
            for partial in self.directory.glob("*.partial"):
                shutil.rmtree(partial, ignore_errors=True)
        self._writer = ThreadPoolExecutor(1, "local-checkpoint")
        self._writing: Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the one before is still being written."""
        return self._writing is not None and not self._writing.done()

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, oldest first."""
        try:
            names = [path.name for path in self.directory.iterdir()]
        except OSError:  # the disk has failed, or is another
            return []
        return as_steps(names)

    def begin(self, step: int) -> None:
        """Remove what is of later steps or for another number of processes.

        The run goes on at `step`; what it left behind would pass for its own, or have
        what it saves next removed as older.
        """
        with self._tolerant():
            for later in (found for found in self.steps() if found > step):
                shutil.rmtree(self.directory / str(later))
        for folder in self._root.glob("process-*-of-*"):
            if not folder.name.endswith(f"-of-{jax.process_count()}"):
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        """Save nothing more here if the disk fails: other checkpoints go on."""
        try:
            yield
        except OSError as error:
            self._is_given_up = True
            log.warning(
                "nothing more is saved in %s, on a disk that failed (%s); the shared "
                "checkpoints go on. Make room there, or name another place in "
                "checkpoint.local.directory, before the next start.",
                *(self.directory, error),
            )

    def save(self, state: TrainState, notes: Mapping[str, object]) -> None:
        """Start saving; returns when the shards are copied to the host.

        Does nothing once the disk has failed.

        Args:
            state: arrays on the devices.
            notes: what else to keep, as JSON.
        """
        self.wait()
        step = int(state.step)
        if self._is_given_up or step in self.steps():
            return
        found = names.by_path(state)
        leaves = list(found.values())
        for leaf in leaves:
            for shard in plain(leaf).addressable_shards:
                shard.data.copy_to_host_async()
        shards = {
            f"{_number(i)}.{place}": array
            for i, leaf in enumerate(leaves)
            for place, array in _copy(leaf).items()
        }
        header = {"paths": json.dumps(list(found)), "notes": json.dumps(dict(notes))}
        self._writing = self._writer.submit(self._write, step, shards, header)

    def _write(
        self, step: int, shards: dict[str, np.ndarray], header: dict[str, str]
    ) -> None:
        # Every process has the newest by now, see `loop`: it is all that must stay.
        for old in self.steps()[: 1 - _KEPT]:
            shutil.rmtree(self.directory / str(old), ignore_errors=True)
        partial = self.directory / f"{step}.partial"
        try:
            partial.mkdir(exist_ok=True)
            save_file(shards, partial / _FILE, header)
            digests.seal(partial)
            partial.rename(self.directory / str(step))
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise OSError(str(error)) from error

    def restore(
        self, step: int, abstract: TrainState
    ) -> tuple[TrainState, dict[str, Any]]:
        """Return a state and its notes.

        Args:
            step: of the checkpoint.
            abstract: the state as `jax.ShapeDtypeStruct`s with shardings.

        Raises:
            OSError, ValueError, LookupError, TypeError: it is damaged, or of another
                mesh.
        """
        with digests.verified(self.directory / str(step)):
            return self._restore(step, abstract)

    def _restore(
        self, step: int, abstract: TrainState
    ) -> tuple[TrainState, dict[str, Any]]:
        leaves, tree = jax.tree.flatten(abstract)
        paths = list(names.by_path(abstract))
        shards: list[dict[str, np.ndarray]] = [{} for _ in leaves]
        try:
            with safe_open(self.directory / str(step) / _FILE, "numpy") as file:
                header = file.metadata()
                if json.loads(header["paths"]) != paths:
                    raise ValueError("it holds other arrays than are needed")
                for name in file.keys():  # noqa: SIM118, it is no mapping
                    number, place = name.split(".")
                    shards[int(number)][place] = file.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        restored = [_assemble(a, s) for a, s in zip(leaves, shards, strict=True)]
        return jax.tree.unflatten(tree, restored), json.loads(header["notes"])

    def wait(self) -> None:
        """Block until everything is written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with self._tolerant():
                writing.result()

    def close(self) -> None:
        """Finish writing."""
        self.wait()
        self._writer.shutdown()

    def discard(self) -> None:
        """Remove this process's checkpoints."""
        self.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
        try:
            self._root.rmdir()
        except OSError:  # another process of this host still has its own
            return


def _number(index: int) -> str:
    return f"{index:05d}"


def _copy(leaf: jax.Array) -> dict[str, np.ndarray]:
    """Return the different shards of this process, copied, by their place."""
    copies: dict[str, np.ndarray] = {}
    array = plain(leaf)
    for shard in array.addressable_shards:
        name = _place(shard.index, array.shape)
        if name not in copies:
            copies[name] = np.array(shard.data)  # the buffer itself is given up
    return copies


def _assemble(
    abstract: jax.ShapeDtypeStruct, shards: Mapping[str, np.ndarray]
) -> jax.Array:
    is_key = jnp.issubdtype(abstract.dtype, jax.dtypes.prng_key)
    shape, dtype = abstract.shape, abstract.dtype
    if is_key:
        data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        shape, dtype = (*shape, *data.shape), data.dtype

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        name = _place(index, shape)
        if name not in shards:
            raise ValueError(f"it was saved on another mesh: part {name} is not there")
        found = np.asarray(shards[name])
        wanted = tuple(
            len(range(*s.indices(n))) for s, n in zip(index, shape, strict=True)
        )
        if found.shape != wanted or found.dtype != dtype:
            raise ValueError(
                f"part {name} is {found.dtype}{list(found.shape)} there and "
                f"{dtype}{list(wanted)} here"
            )
        return found

    array = jax.make_array_from_callback(shape, abstract.sharding, part)
    return jax.random.wrap_key_data(array) if is_key else array


def _place(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
    """Return '0-16_4-8' for rows 0 to 16 and columns 4 to 8; 'all' of a scalar."""
    bounds = [s.indices(n)[:2] for s, n in zip(index, shape, strict=True)]
    return "_".join(f"{start}-{stop}" for start, stop in bounds) or "all"
