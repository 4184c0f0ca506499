"""Checkpoints: the state, the data's position and a description, through Orbax.

A checkpoint directory holds one folder per step with three items: `state` (arrays, in
Orbax's own sharded layout), `data` (the position of the stream) and `meta` (the full
config, versions and revision). Saving copies the arrays to the host and writes in the
background. A damaged checkpoint is set aside once the one before it has been read; one
that the file system fails to read stays, and nothing is trained over it.
Checkpoints on the hosts' own disks (`local.py`) may stand between them. The two modules
are the only ones that know Orbax.
"""

import dataclasses
import functools
import itertools
import logging
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from unitoken_jax.checkpoint.local import LocalCheckpoints, LocalConfig
from unitoken_jax.checkpoint.reader import (
    DAMAGE,
    CheckpointError,
    Restored,
    brief,
    by_all,
    compare,
    read,
    steps,
)
from unitoken_jax.checkpoint.state import TrainState
from unitoken_jax.config import Natural
from unitoken_jax.files import write_text
from unitoken_jax.runtime import processes

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Save every so many steps (and at the end), keep the newest `keep`.

    A step for which the one before is still being written is saved a little later.

    Attributes:
        every: steps between checkpoints.
        keep: how many of the newest are kept.
        keep_every: the first checkpoint at or after each multiple of this step is
            kept for ever (0: none).
        local: checkpoints on the hosts' own disks in between.
    """

    every: int = 1000
    keep: int = 2
    keep_every: Natural = 0
    local: LocalConfig = dataclasses.field(default_factory=LocalConfig)

    def __post_init__(self) -> None:
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1.")
        if self.keep_every % self.every:
            raise ValueError(
                f"keep_every must be a multiple of every ({self.every}), "
                f"not {self.keep_every}."
            )


@dataclasses.dataclass(frozen=True)
class _FirstAfterMultiples(ocp.checkpoint_managers.PreservationPolicy):
    """Keep the first checkpoint at or after each multiple: some are saved late."""

    interval: int

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> list[bool]:
        """Say of each checkpoint, oldest first, whether it is kept."""
        multiples = [0, *(c.step // self.interval for c in checkpoints)]
        return [after > before for before, after in itertools.pairwise(multiples)]


class Checkpointer:
    """Saves and restores the states of one run in one directory.

    Of a run of several processes all make one and call it alike. As a context it waits
    at its end until all is written, unless another process was lost.
    """

    def __init__(self, directory: Path, config: CheckpointConfig) -> None:
        self.directory = directory.absolute()
        self.config = config
        with self._writing("opened"):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._manager = self._open()
            self._local = None
            if config.local.directory:
                self._local = LocalCheckpoints(config.local, self._identity())
                # What different starts have saved at one step is not of one timeline.
                self._start = int(processes.gather([secrets.randbits(31)])[0, 0])

    def _open(self) -> ocp.CheckpointManager:
        policies = ocp.checkpoint_managers
        kept: list[Any] = [policies.LatestN(self.config.keep)]
        if self.config.keep_every:
            kept.append(_FirstAfterMultiples(self.config.keep_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
            enable_background_delete=True,
        )
        return ocp.CheckpointManager(self.directory, options=options)

    def _identity(self) -> str:
        """Return a name of this run that no run before it in this place has had.

        It lies among the checkpoints, so that removing them begins a new run.
        """
        path, name = self.directory / "identity", bytes(8).hex()
        if processes.is_first():
            if not path.exists():
                write_text(path, secrets.token_hex(8))
            name = path.read_text()
        numbers = np.frombuffer(bytes.fromhex(name), np.int32)
        return processes.gather(numbers.tolist())[0].tobytes().hex()

    @property
    def is_busy(self) -> bool:
        """Whether this process is still writing an earlier checkpoint."""
        local = self._local is not None and self._local.is_busy
        return self._manager.is_saving_in_progress() or local

    def save(self, state: TrainState, position: int, meta: Mapping[str, Any]) -> None:
        """Start saving `state` unless its step is saved already.

        Returns when the arrays are copied, so the step may reuse their buffers; if an
        earlier checkpoint is still being written, it waits for that first. A failure to
        write is raised here, by a later `save` or by `close`.
        """
        step = int(state.step)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),  # pyright: ignore[reportCallIssue]
            data=ocp.args.JsonSave({"position": position}),  # pyright: ignore[reportCallIssue]
            meta=ocp.args.JsonSave(dict(meta)),  # pyright: ignore[reportCallIssue]
        )
        with self._writing("written"):
            # Whoever returned alone would leave the others waiting for it.
            if not processes.all_say(step in self._manager.all_steps()):
                self._manager.save(step, args=items, force=True)

    def save_local(
        self, state: TrainState, position: int, meta: Mapping[str, Any]
    ) -> None:
        """Start saving `state` on the hosts' own disks, as `save`; needs `local`."""
        if self._local is not None:
            notes = {
                "position": position,
                "meta": dict(meta),
                "start": self._start,
                "after": max(self._manager.all_steps(), default=-1),
            }
            with self._writing("written"):
                self._local.save(state, notes)

    def restore(self, abstract: TrainState) -> Restored | None:
        """Restore the newest checkpoint that can be read, or None if there is none.

        What is newer is set aside, or removed from the hosts' own disks.

        Args:
            abstract: the state as `jax.ShapeDtypeStruct`s with shardings.

        Raises:
            CheckpointError: the checkpoint holds other arrays than the state, there
                are checkpoints and none can be read or seen by every process, or only
                damaged ones are left.
        """
        listed = self._manager.all_steps()
        shared, unshared = compare(listed)
        local = compare(self._local.steps())[0] if self._local is not None else []
        newest = max([*shared, *unshared], default=-1)
        damaged: list[int] = []
        for step in sorted({*shared, *local}, reverse=True):
            restored = None
            if step in shared:
                path = self.directory / str(step)
                restored = by_all(path, functools.partial(read, path, abstract))
                damaged += [] if restored else [step]
            if restored is None and step in local:
                restored = self._restore_local(step, abstract, newest)
            if restored is not None:
                self._set_aside(damaged + [s for s in unshared if s > step])
                self._begin_local(step)
                return restored
        if shared:
            raise CheckpointError(
                f"none of the {len(shared)} checkpoints in {self.directory} can be "
                "read; they stay where they are. Put a good copy in the place of one, "
                "or remove that folder to begin the stage anew."
            )
        self._check_beginning(is_new=not listed)
        self._begin_local(-1)
        return None

    def _begin_local(self, step: int) -> None:
        """Forget what hosts hold of a timeline that the run leaves at `step`."""
        if self._local is not None:
            self._local.begin(step)

    def _check_beginning(self, *, is_new: bool) -> None:
        """Refuse to begin anew where checkpoints are seen, or were set aside."""
        if not processes.all_say(is_new):
            raise CheckpointError(
                f"processes see different checkpoints in {self.directory}, and none in "
                "common. It must be a directory that all of them share; mount it on "
                "every host and run again to resume."
            )
        has_damaged = self._damaged.is_dir() and any(self._damaged.iterdir())
        if not processes.all_say(not has_damaged):
            raise CheckpointError(
                f"there is no checkpoint in {self.directory}, only those in "
                f"{self._damaged} that could not be read. Move a good one back, or "
                "remove that folder to begin the stage anew."
            )

    def _restore_local(
        self, step: int, abstract: TrainState, newest: int
    ) -> Restored | None:
        """Restore from the hosts' own disks if all can, what one start has saved.

        If the shared one that it followed is newer than `newest`, the run went back.
        """
        assert self._local is not None
        state = None
        notes: dict[str, Any] = {}
        try:
            found, notes = self._local.restore(step, abstract)
            if notes["after"] > newest:
                raise LookupError(f"checkpoint {notes['after']}, before it, is gone")
            state = found
        except (OSError, *DAMAGE) as error:
            log.warning(
                "the checkpoint of step %d on this host cannot be used (%s)",
                *(step, brief(error)),
            )
        said = processes.gather([int(state is not None), notes.get("start", 0)])
        if state is None or not said[:, 0].all():
            return None
        if len(set(said[:, 1].tolist())) > 1:
            log.warning("what the hosts hold of step %d does not go together", step)
            return None
        log.info("step %d is restored from %s", step, self._local.directory)
        return Restored(state, int(notes["position"]), notes["meta"])

    def _set_aside(self, steps: list[int]) -> None:
        """Move checkpoints away that a process cannot read or see; an older is read."""
        if not steps:
            return
        self._manager.close()
        if processes.is_first():
            self._damaged.mkdir(exist_ok=True)
            for folder in (self.directory / str(step) for step in steps):
                if folder.exists():
                    target = self._damaged / folder.name
                    shutil.rmtree(target, ignore_errors=True)
                    shutil.move(folder, target)
        log.warning(
            "checkpoints that are damaged or not seen by every process (%s) are moved "
            "to %s.",
            *(", ".join(map(str, steps)), self._damaged),
        )
        processes.wait_for_all("setting checkpoints aside")
        self._manager = self._open()

    @property
    def _damaged(self) -> Path:
        return self.directory.parent / f"{self.directory.name}-damaged"

    def wait(self) -> None:
        """Block until everything is written."""
        with self._writing("written"):
            self._manager.wait_until_finished()
            if self._local is not None:
                self._local.wait()

    def discard_local(self) -> None:
        """Remove what is on the hosts' own disks; the run is complete."""
        if self._local is not None:
            self._local.discard()

    def close(self) -> None:
        """Finish writing and stop the background threads."""
        with self._writing("written"):
            self._manager.close()
            if self._local is not None:
                self._local.close()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Writing ends with an agreement, which nobody would answer.
        if kind is None or not issubclass(kind, processes.LostError):
            self.close()

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            with processes.others_needed("writing a checkpoint"):
                yield
        except processes.LostError:
            raise
        except Exception as error:  # the file system's, Orbax's or TensorStore's
            kept = steps(self.directory)
            left = f"the newest complete one is {kept[-1]}" if kept else "there is none"
            raise CheckpointError(
                f"a checkpoint in {self.directory} could not be {what} "
                f"({brief(error)}); {left}. "
                "Check the space left and the permissions, then run again to resume."
            ) from error
