"""Checkpoints: the state, the data's position and a description, through Orbax.

Saving copies the arrays to the host and writes in the background. A checkpoint gets its
name when every file of it stands in its digests, and is compared with them when it is
read (`reader.py`). A damaged one is set aside once the one before it has been read; one
that the file system fails to read stays, and nothing is trained over it.
Checkpoints on the hosts' own disks (`local.py`) may stand between them.
"""

import dataclasses
import functools
import grp
import json
import logging
import os
import pwd
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.path import atomicity

from unitoken_jax.checkpoint import digests, names, retention
from unitoken_jax.checkpoint.local import LocalCheckpoints, LocalConfig
from unitoken_jax.checkpoint.reader import (
    DAMAGE,
    CheckpointError,
    Restored,
    UnwrittenError,
    brief,
    by_all,
    compare,
    position_record,
    read,
    restored_from,
    steps,
)
from unitoken_jax.checkpoint.state import TrainState
from unitoken_jax.config import Natural
from unitoken_jax.files import write_json, write_text
from unitoken_jax.runtime import processes

log = logging.getLogger(__name__)

_METADATA = "_CHECKPOINT_METADATA"  # Orbax's file of a checkpoint
_HIDDEN = ".orbax-checkpoint-tmp-evicted"  # what Orbax takes for half written
_WENT_BACK = "went_back.json"


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Save every so many steps (and at the end), keep the newest `keep`.

    A step for which the one before is still being written is saved a little later.

    Attributes:
        every: steps between checkpoints.
        keep: how many of the newest are kept; with 1 the one before stays as well,
            until a still newer one shows that the newest is good.
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
            self._set_misdescribed_aside()
            self._manager = self._open()
            self._local = None
            if config.local.directory:
                self._local = LocalCheckpoints(config.local, self._identity())
                # What different starts have saved at one step is not of one timeline.
                self._start = int(processes.gather([secrets.randbits(31)])[0, 0])

    def _set_misdescribed_aside(self) -> None:
        """Move checkpoints away whose description Orbax would fail to open any with.

        If there is none that is older and good, all stay where they are.
        """
        if processes.is_first():
            found = steps(self.directory)
            bad = [
                step
                for step in found
                if digests.is_changed(self.directory / str(step), _METADATA)
            ]
            good = min((step for step in found if step not in bad), default=None)
            moved = [step for step in bad if good is not None and step > good]
            for step in moved:
                log.warning(
                    "checkpoint %s is damaged (%s: its bytes are not those that were "
                    "written); it is moved to %s.",
                    *(self.directory / str(step), _METADATA, self._damaged),
                )
                self._damaged.mkdir(exist_ok=True)
                shutil.move(
                    self.directory / str(step), _unused(self._damaged / str(step))
                )
        processes.wait_for_all("a look at the checkpoints")

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            temporary_path_class=_sealing(self.directory, self._remove_surplus),
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        with _nameless_owners():
            return ocp.CheckpointManager(self.directory, options=options)

    def _remove_surplus(self) -> None:
        """Remove what a new checkpoint replaces; the first process, in background."""
        config, found = self.config, steps(self.directory)
        for step in retention.surplus(found, config.keep, config.keep_every):
            hidden = self.directory / f"{step}{_HIDDEN}"
            retention.remove(self.directory / str(step), hidden)

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

    def steps(self) -> list[int]:
        """Return the steps of the complete shared checkpoints, oldest first."""
        return steps(self.directory)

    @property
    def is_busy(self) -> bool:
        """Whether this process is still writing an earlier checkpoint."""
        local = self._local is not None and self._local.is_busy
        return self._manager.is_saving_in_progress() or local

    def save(
        self, state: TrainState, position: int, meta: Mapping[str, object]
    ) -> None:
        """Start saving `state` unless its step is saved already.

        Returns when the arrays are copied, so the step may reuse their buffers; if an
        earlier checkpoint is still being written, it waits for that first. A failure to
        write is raised here, by a later `save` or by `close`.

        Args:
            state: arrays on the devices, known to be good.
            position: samples of the stream that the state has seen.
            meta: a description, as JSON; its `config` is the stage's.
        """
        step = int(state.step)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(names.stored(state)),  # pyright: ignore[reportCallIssue]
            data=ocp.args.JsonSave(position_record(step, position)),  # pyright: ignore[reportCallIssue]
            meta=ocp.args.JsonSave(dict(meta)),  # pyright: ignore[reportCallIssue]
        )
        with self._writing("written"):
            # Whoever returned alone would leave the others waiting for it.
            if not processes.all_say(step in self._manager.all_steps()):
                self._manager.save(step, args=items, force=True)

    def save_local(
        self, state: TrainState, position: int, meta: Mapping[str, object]
    ) -> None:
        """Start saving `state` on the hosts' own disks, as `save`; needs `local`."""
        if self._local is not None:
            notes = {
                "data": position_record(int(state.step), position),
                "meta": dict(meta),
                "start": self._start,
                "after": max(self._manager.all_steps(), default=-1),
            }
            with self._writing("written"):
                self._local.save(state, notes)

    def restore(self, abstract: TrainState, step: int | None = None) -> Restored | None:
        """Restore the newest checkpoint that can be read, or None if there is none.

        What is newer is set aside, or removed from the hosts' own disks.

        Args:
            abstract: the state as `jax.ShapeDtypeStruct`s with shardings.
            step: go back to the checkpoint of this step. It is done once: a later
                start with the same step goes on at the newest, as whoever starts a run
                again after an interruption repeats the command.

        Raises:
            CheckpointError: the checkpoint holds other arrays than the state, there
                are checkpoints and none can be read or seen by every process, only
                damaged ones are left, or there is none of `step`.
        """
        if step is not None and not self._went_back(step):
            return self._go_back(abstract, step)
        restored = self._restore_newest(abstract)
        if step is None and processes.is_first():
            (self.directory / _WENT_BACK).unlink(missing_ok=True)
        return restored

    def _restore_newest(self, abstract: TrainState) -> Restored | None:
        listed = steps(self.directory)
        shared, unshared = compare(listed)
        local = self._local_steps()
        newest = max([*shared, *unshared], default=-1)
        damaged: list[int] = []
        for step in sorted({*shared, *local}, reverse=True):
            restored = None
            if step in shared:
                restored = self._restore_shared(step, abstract)
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

    def _go_back(self, abstract: TrainState, step: int) -> Restored:
        """Restore the checkpoint of `step` and set aside what is newer."""
        shared, unshared = compare(steps(self.directory))
        newest = max([*shared, *unshared], default=-1)
        restored = None
        if step in shared:
            restored = self._restore_shared(step, abstract)
        elif step in self._local_steps():
            restored = self._restore_local(step, abstract, newest)
        if restored is None:
            raise missing_checkpoint(step, self.directory)
        later = [s for s in [*shared, *unshared] if s > step]
        self._move(later, "abandoned")
        log.warning(
            "the run goes back to step %d; %s",
            step,
            f"newer checkpoints ({', '.join(map(str, sorted(later)))}) are moved to "
            f"{self._beside('abandoned')}."
            if later
            else "there is no newer checkpoint.",
        )
        self._begin_local(step)
        if processes.is_first():
            record = {"step": step, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
            write_json(self.directory / _WENT_BACK, record)
        return restored

    def _went_back(self, step: int) -> bool:
        """Say whether an earlier start went back to `step`, and none began since."""
        is_done = went_back(self.directory) == step
        is_done = bool(processes.gather([int(is_done)])[0, 0])
        if is_done:
            log.warning(
                "--restore_step=%d was followed by an earlier start: this one goes on "
                "at the newest checkpoint. To go back once more, remove %s.",
                *(step, self.directory / _WENT_BACK),
            )
        return is_done

    def _local_steps(self) -> list[int]:
        return [] if self._local is None else compare(self._local.steps())[0]

    def _restore_shared(self, step: int, abstract: TrainState) -> Restored | None:
        path = self.directory / str(step)
        reader = functools.partial(read, path, abstract, together=True)
        return by_all(path, reader)

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
        restored, start = None, 0
        try:
            found, notes = self._local.restore(step, abstract)
            if notes["after"] > newest:
                raise LookupError(f"checkpoint {notes['after']}, before it, is gone")
            restored = restored_from(step, found, notes["data"], notes["meta"])
            start = int(notes["start"])
        except (OSError, *DAMAGE) as error:
            log.warning(
                "the checkpoint of step %d on this host cannot be used (%s)",
                *(step, brief(error)),
            )
        said = processes.gather([int(restored is not None), start])
        if restored is None or not said[:, 0].all():
            return None
        if len(set(said[:, 1].tolist())) > 1:
            log.warning("what the hosts hold of step %d does not go together", step)
            return None
        log.info("step %d is restored from %s", step, self._local.directory)
        return restored

    def _set_aside(self, steps: list[int]) -> None:
        """Move checkpoints away that a process cannot read or see; an older is read."""
        if steps:
            self._move(steps, "damaged")
            log.warning(
                "checkpoints that are damaged or not seen by every process (%s) are "
                "moved to %s.",
                *(", ".join(map(str, steps)), self._damaged),
            )

    def _move(self, steps: list[int], why: str) -> None:
        """Move checkpoints to the folder beside theirs that is named by `why`."""
        if not steps:
            return
        self._manager.close()
        if processes.is_first():
            aside = self._beside(why)
            aside.mkdir(exist_ok=True)
            for folder in (self.directory / str(step) for step in steps):
                if os.path.lexists(folder):
                    shutil.move(folder, _unused(aside / folder.name))
        processes.wait_for_all("setting checkpoints aside")
        self._manager = self._open()

    def _beside(self, why: str) -> Path:
        return self.directory.parent / f"{self.directory.name}-{why}"

    @property
    def _damaged(self) -> Path:
        return self._beside("damaged")

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
            raise UnwrittenError(
                f"a checkpoint in {self.directory} could not be {what} "
                f"({brief(error)}); {left}. "
                "Check the space left and the permissions, then run again to resume."
            ) from error


@contextmanager
def _nameless_owners() -> Iterator[None]:
    """Let owners of files be called by their numbers where they have no names.

    Of a checkpoint whose `_CHECKPOINT_METADATA` says no time, Orbax asks for the
    folder's, which asks for the names of its owner and group.
    """
    users, groups = pwd.getpwuid, grp.getgrgid

    def user(number: int) -> pwd.struct_passwd:
        try:
            return users(number)
        except KeyError:
            name = str(number)
            return pwd.struct_passwd((name, "", number, number, "", "/", ""))

    def group(number: int) -> grp.struct_group:
        try:
            return groups(number)
        except KeyError:
            return grp.struct_group((str(number), "", number, []))

    pwd.getpwuid, grp.getgrgid = user, group
    try:
        yield
    finally:
        pwd.getpwuid, grp.getgrgid = users, groups


def went_back(directory: Path) -> int | None:
    """Return the step that a start went back to, if none without that began since.

    Args:
        directory: of the checkpoints.
    """
    try:
        step = json.loads((directory / _WENT_BACK).read_bytes())["step"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None


def missing_checkpoint(step: int, directory: Path) -> CheckpointError:
    """Return what says that there is no going back to a step in `directory`."""
    there = steps(directory)
    state = "cannot be read" if step in there else "is not there"
    return CheckpointError(
        f"--restore_step={step}: the checkpoint of this step {state} in {directory}; "
        f"nothing is changed. There are: {', '.join(map(str, there)) or 'none'}."
    )


def _sealing(
    directory: Path, then: Callable[[], None]
) -> type[atomicity.AtomicRenameTemporaryPath]:
    """Return what gives a checkpoint its name once its digests are written.

    Args:
        directory: of the checkpoints; their items, inside them, are left to Orbax.
        then: is called when a checkpoint has its name.
    """

    class Sealing(atomicity.AtomicRenameTemporaryPath):
        """A half-written folder of Orbax, finalized by the first process alone."""

        def __init__(self, *paths: Any, **options: Any) -> None:
            super().__init__(*paths, **options)
            self._metadata = options.get("checkpoint_metadata_store")

        async def finalize(self) -> None:
            """Write what Orbax writes last, then the digests; then rename."""
            partial, final = Path(self.get()), Path(self.get_final())
            if final.parent != directory:
                await super().finalize()
                return
            if self._metadata is not None:
                # Without a time Orbax asks for the folder's, which asks for the name of
                # its owner: an unknown user of a container has none.
                self._metadata.wait_until_finished()
                self._metadata.update(
                    file_path=self.get() / _METADATA,
                    commit_timestamp_nsecs=time.time_ns(),
                )
                self._metadata.wait_until_finished()
            text = f"Checkpoint commit was successful to {final}"
            write_text(partial / atomicity.COMMIT_SUCCESS_FILE, text)
            digests.seal(partial)
            partial.rename(final)
            then()

    return Sealing


def _unused(path: Path) -> Path:
    """Return `path`, or with a number behind it if something lies there."""
    candidates = (path.with_name(f"{path.name}-{n}") for n in range(2, 10_000))
    while os.path.lexists(path):
        path = next(candidates)
    return path
