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
import json
import logging
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from unitoken_jax.config import UserError, nearest
from unitoken_jax.train import processes
from unitoken_jax.train.environment import write_text
from unitoken_jax.train.local import LocalCheckpoints, LocalConfig
from unitoken_jax.train.paths import flatten, nest
from unitoken_jax.train.state import TrainState

log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
_Read = TypeVar("_Read")
_SHOWN = 3  # offenders named in a message
_COMPARED = 64  # newest checkpoints that processes compare
# What readers raise on damaged bytes; neither running out of memory nor a file system
# that fails is among it.
DAMAGE = (FileNotFoundError, ValueError, LookupError, TypeError)
# How a ValueError of TensorStore begins if the file system failed; with damaged bytes
# it is DATA_LOSS, NOT_FOUND or OUT_OF_RANGE.
_FAILURES = (
    "ABORTED:",
    "DEADLINE_EXCEEDED:",
    "PERMISSION_DENIED:",
    "RESOURCE_EXHAUSTED:",
    "UNAVAILABLE:",
    "UNKNOWN:",
)


class CheckpointError(UserError):
    """A checkpoint is missing, does not fit or could not be read or written."""


class UnreadableError(CheckpointError):
    """The file system failed, twice, to read a checkpoint that may be good."""


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
    keep_every: int = 0
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


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint gave back."""

    state: TrainState
    position: int
    meta: Mapping[str, Any]


def steps(directory: Path) -> list[int]:
    """Return the steps of the complete checkpoints in `directory`, oldest first.

    Orbax writes under another name and renames when all is written.
    """
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


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
        shared, unshared = _compare(listed)
        local = _compare(self._local.steps())[0] if self._local is not None else []
        newest = max([*shared, *unshared], default=-1)
        damaged: list[int] = []
        for step in sorted({*shared, *local}, reverse=True):
            restored = None
            if step in shared:
                path = self.directory / str(step)
                restored = _by_all(path, functools.partial(read, path, abstract))
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
                *(step, _brief(error)),
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
                f"({_brief(error)}); {left}. "
                "Check the space left and the permissions, then run again to resume."
            ) from error


def _compare(found: Iterable[int]) -> tuple[list[int], list[int]]:
    """Return the steps that all processes have found, newest first, and the others."""
    newest = sorted(found, reverse=True)[:_COMPARED]
    said = processes.gather(newest + [-1] * (_COMPARED - len(newest)))
    rows = [{*row.tolist()} - {-1} for row in said]
    common = set.intersection(*rows)
    return sorted(common, reverse=True), sorted(set.union(*rows) - common)


def _by_all(folder: Path, reader: Callable[[], _Read]) -> _Read | None:
    """Read a checkpoint, or return None if it is damaged for any process."""
    found = failure = None
    reason = "for another process"
    try:
        found = reader()
    except UnreadableError as error:
        failure = error
    except DAMAGE as error:
        reason = _brief(error)
    said = processes.gather([int(found is not None), int(failure is not None)])
    is_read, has_failed = said[:, 0], said[:, 1]
    if has_failed.any():
        raise failure or UnreadableError(
            f"another process could not read {folder}. Its own output says why; "
            "run again to resume."
        )
    if is_read.all():
        return found
    log.warning(
        "checkpoint %s is damaged (%s); the one before it is tried.",
        *(folder, reason),
    )
    return None


def read(folder: Path, abstract: TrainState) -> Restored:
    """Read one checkpoint; no other process is waited for and nothing is written.

    Args:
        folder: of the checkpoint's step.
        abstract: the state as `jax.ShapeDtypeStruct`s with shardings.

    Raises:
        CheckpointError: it holds other arrays than the state.
        UnreadableError: the file system failed, twice.
        FileNotFoundError, ValueError, LookupError, TypeError: as the damage has it.
    """
    return _twice(folder, lambda: _read(folder, abstract))


def _read(folder: Path, abstract: TrainState) -> Restored:
    _check_shapes(folder, abstract)
    arguments = ocp.args.StandardRestore(abstract)  # pyright: ignore[reportCallIssue]
    with _reading(ocp.StandardCheckpointHandler()) as handler:
        state = handler.restore(folder / "state", args=arguments)
    position, meta = (
        json.loads((folder / name / "metadata").read_text())
        for name in ("data", "meta")
    )
    return Restored(state, int(position["position"]), meta)


def _twice(folder: Path, reader: Callable[[], _Read]) -> _Read:
    """Read something of a checkpoint, once more if the file system fails.

    Raises:
        UnreadableError: it fails again.
    """
    try:
        return reader()
    except FileNotFoundError:
        raise
    except OSError as error:
        log.warning(
            "checkpoint %s could not be read (%s); it is tried once more.",
            *(folder, _brief(error)),
        )
    try:
        return reader()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError(
            f"checkpoint {folder} could not be read ({_brief(error)}); it stays where "
            "it is. Check the file system and the permissions, then run again."
        ) from error


def _check_shapes(folder: Path, abstract: TrainState) -> None:
    """Refuse a checkpoint of another config in a sentence, before reading it.

    Raises:
        CheckpointError: it holds other arrays than the state. One whose description
            is damaged is not refused here.
    """
    try:
        saved, wanted = _shapes(_metadata(folder)), _shapes(abstract)
        # A typed random key has another shape in a file than in memory.
        del saved["key"], wanted["key"]
    except DAMAGE:
        return
    if problems := describe_differences(saved, wanted):
        raise CheckpointError(
            f"checkpoint {folder} was made with another config: {problems}. Use "
            "that config (it is stored beside it, in `meta`) or another --workdir."
        )


def restore_params(
    directory: Path,
    subtree: str = "",
    shardings: Mapping[str, Any] | Callable[[Shapes], Mapping[str, Any]] | None = None,
    *,
    average: bool = False,
    together: bool = False,
) -> tuple[dict[str, Any], int]:
    """Read parameters alone, without optimiser, from the newest readable checkpoint.

    Args:
        directory: a stage's directory or its `checkpoints`.
        subtree: path of the part to read ('decoder'), '' for all.
        shardings: where to put each parameter, nested; what is not named is not read.
            A function is given the shapes that are there, by path, and may refuse
            them. None reads everything as NumPy arrays.
        average: read the whole of their moving average instead, which a stage with
            `train.average` keeps.
        together: all processes of the run call this alike and get the parameters of
            one checkpoint, which all of them can read. Without it no other process
            is waited for.

    Returns:
        The nested parameters and the step of the checkpoint.

    Raises:
        CheckpointError: no checkpoint, none readable, or no such subtree.
    """

    def reader(folder: Path) -> dict[str, Any]:
        places = shardings
        if callable(places):
            places = places(_params_shapes(folder, subtree))
        if average:
            params = _restore_average(folder)
            return jax.device_put(params, places) if places else params
        return _restore_params(folder, subtree, places)

    return _newest(_folder(directory), reader, together=together)


def parameter_shapes(directory: Path, subtree: str = "") -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters under `subtree`, by path within it.

    Raises:
        CheckpointError: no checkpoint, none readable, or no such subtree.
    """
    reader = functools.partial(_params_shapes, subtree=subtree)
    return _newest(_folder(directory), reader)[0]


def _newest(
    folder: Path, reader: Callable[[Path], _Read], *, together: bool = False
) -> tuple[_Read, int]:
    """Return what `reader` makes of the newest checkpoint it can read, and its step."""
    found = steps(folder)
    for step in _compare(found)[0] if together else reversed(found):
        path = folder / str(step)
        attempt = functools.partial(_twice, path, functools.partial(reader, path))
        if together:
            if (result := _by_all(path, attempt)) is not None:
                return result, step
            continue
        try:
            return attempt(), step
        except DAMAGE as error:
            log.warning(
                "checkpoint %s is damaged (%s); the one before it is used.",
                *(path, _brief(error)),
            )
    raise CheckpointError(f"there is no readable checkpoint in {folder}.")


def describe_differences(saved: Shapes, wanted: Shapes) -> str:
    """Say in words where two sets of shapes differ; '' where they do not."""
    problems = [
        f"{path!r} is {list(saved[path])} there and {list(shape)} here"
        for path, shape in wanted.items()
        if path in saved and saved[path] != shape
    ]
    problems += [f"{path!r} is missing there" for path in wanted if path not in saved]
    problems += [f"{path!r} is not wanted here" for path in saved if path not in wanted]
    if len(problems) > _SHOWN:
        problems[_SHOWN:] = [f"and {len(problems) - _SHOWN} more"]
    return ", ".join(problems)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:300].splitlines()[0]}"


def _folder(directory: Path) -> Path:
    inner = directory / "checkpoints"
    return (inner if inner.is_dir() else directory).absolute()


def _metadata(folder: Path) -> dict[str, Any]:
    """Return the tree of array descriptions of one checkpoint."""
    with _reading(ocp.PyTreeCheckpointHandler()) as handler:
        return handler.metadata(folder / "state").tree


@contextmanager
def _reading(handler: Any) -> Iterator[Any]:
    """Close a handler of Orbax in the end; a file system that failed is an OSError."""
    try:
        yield handler
    except ValueError as error:
        if str(error).startswith(_FAILURES):
            raise OSError(str(error)) from error
        raise
    finally:
        handler.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _select(tree: Mapping[str, Any], subtree: str, folder: Path) -> dict[str, Any]:
    """Return the part of nested parameters under a slash-separated path."""
    node: Any = tree
    for name in filter(None, subtree.split("/")):
        if not isinstance(node, Mapping) or name not in node:
            known = node if isinstance(node, Mapping) else {}
            raise CheckpointError(
                f"the checkpoints in {folder} hold no {subtree!r}{nearest(name, known)}"
            )
        node = node[name]
    return dict(node)


def _restore_part(folder: Path, item: Any, how: Any) -> Any:
    """Restore those arrays of a state that `item` names."""
    arguments = ocp.args.PyTreeRestore(item, restore_args=how, partial_restore=True)  # pyright: ignore[reportCallIssue]
    with _reading(ocp.PyTreeCheckpointHandler()) as handler:
        return handler.restore(folder / "state", args=arguments)


def _restore_average(folder: Path) -> dict[str, Any]:
    kept = _metadata(folder)["optimizer"]
    if not isinstance(kept, Mapping) or "average" not in kept:
        raise CheckpointError(
            f"{folder} holds no average of the parameters; train with train.average, "
            "or use the parameters themselves."
        )
    shapes = {
        k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in kept["average"].items()
    }
    item: Any = {"optimizer": {"average": shapes}}
    how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    restored = _restore_part(folder, item, how)
    return nest(restored["optimizer"]["average"])


def _params_shapes(folder: Path, subtree: str) -> dict[str, tuple[int, ...]]:
    tree = _select(_metadata(folder)["params"], subtree, folder.parent)
    return {path: tuple(leaf.shape) for path, leaf in flatten(tree).items()}


def _restore_params(
    folder: Path, subtree: str, shardings: Mapping[str, Any] | None
) -> dict[str, Any]:
    tree = flatten(_select(_metadata(folder)["params"], subtree, folder.parent))
    if shardings is not None:
        tree = {path: tree[path] for path in flatten(shardings)}
    item: Any = nest(
        {path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in tree.items()}
    )
    if shardings is None:
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    else:
        how = jax.tree.map(lambda s: ocp.ArrayRestoreArgs(sharding=s), dict(shardings))
    names = ["params", *filter(None, subtree.split("/"))]
    for name in reversed(names):
        item, how = {name: item}, {name: how}
    restored = _restore_part(folder, item, how)
    return _select(restored, "/".join(names), folder)
