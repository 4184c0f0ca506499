"""Reading checkpoints: the newest that can be read, whole or its parameters alone.

A checkpoint directory holds one folder per step with three items: `state` (arrays, in
Orbax's own sharded layout), `data` (the position of the stream) and `meta` (the full
config, versions and revision), and the digests of all their files, which every reader
compares first. Nothing here is written, moved or removed.
"""

import dataclasses
import functools
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from unitoken_jax.checkpoint import digests, names
from unitoken_jax.checkpoint.state import Params, TrainState
from unitoken_jax.errors import FailedError, UserError, nearest
from unitoken_jax.runtime import processes
from unitoken_jax.runtime.pytree import PyTree, flatten, nest

log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
Nested = Mapping[str, PyTree]
Keys = tuple[jax.tree_util.DictKey, ...]
_Read = TypeVar("_Read")
_SHOWN = 3  # offenders named in a message
_COMPARED = 64  # newest checkpoints that processes compare
# What readers raise where files are damaged, gone or another kind of thing.
_GONE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
# What readers raise on damaged bytes; neither running out of memory nor a file system
# that fails is among it.
DAMAGE = (*_GONE, ValueError, LookupError, TypeError)
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


# What reads that Orbax has left unfinished are reported with.
_LEFT = ("Event loop is closed", "_read_array_index_and_device_put")


class CheckpointError(UserError):
    """A checkpoint is missing, does not fit or could not be read or written."""


class UnwrittenError(CheckpointError, FailedError):
    """A checkpoint could not be written."""


class UnreadableError(CheckpointError, FailedError):
    """The file system failed, twice, to read a checkpoint that may be good."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint gave back.

    Attributes:
        state: on the devices.
        position: samples of the stream that it has seen.
        meta: its description.
    """

    state: TrainState
    position: int
    meta: Mapping[str, object]


def steps(directory: Path) -> list[int]:
    """Return the steps of the complete checkpoints in `directory`, oldest first.

    Orbax writes under another name and renames when all is written.
    """
    if not directory.is_dir():
        return []
    return as_steps(path.name for path in directory.iterdir())


def newest_mark(directory: Path) -> str | None:
    """Return what tells the newest checkpoint of a stage from any other, as its copy.

    Args:
        directory: of the stage.

    Returns:
        The digest of its digests; None where there is none, or none that can be read.
    """
    folder = directory / "checkpoints"
    found = steps(folder)
    return digests.mark(folder / str(found[-1])) if found else None


def as_steps(names: Iterable[str]) -> list[int]:
    """Return the numbers among names that are written as steps are, ascending."""
    decimal = (name for name in names if name.isascii() and name.isdecimal())
    return sorted(int(name) for name in decimal if name == "0" or name[0] != "0")


def compare(found: Iterable[int]) -> tuple[list[int], list[int]]:
    """Return the steps that all processes have found, newest first, and the others."""
    newest = sorted(found, reverse=True)[:_COMPARED]
    said = processes.gather(newest + [-1] * (_COMPARED - len(newest)))
    rows = [{*row.tolist()} - {-1} for row in said]
    common = set.intersection(*rows)
    return sorted(common, reverse=True), sorted(set.union(*rows) - common)


def by_all(folder: Path, reader: Callable[[], _Read]) -> _Read | None:
    """Read a checkpoint, or return None if it is damaged for any process."""
    found = failure = None
    reason = "for another process"
    try:
        found = reader()
    except UnreadableError as error:
        failure = error
    except DAMAGE as error:
        reason = brief(error)
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


def read(folder: Path, abstract: TrainState, *, together: bool = False) -> Restored:
    """Read one checkpoint; no other process is waited for and nothing is written.

    Args:
        folder: of the checkpoint's step.
        abstract: the state as `jax.ShapeDtypeStruct`s with shardings.
        together: all processes read it and will agree, so that each compares only its
            share of the arrays' files with their digests.

    Raises:
        CheckpointError: it holds other arrays than the state.
        UnreadableError: the file system failed, twice.
        FileNotFoundError, ValueError, LookupError, TypeError: as the damage has it.
    """

    def attempt() -> Restored:
        with _verified(folder, together=together):
            return _read(folder, abstract)

    return _twice(folder, attempt)


def _read(folder: Path, abstract: TrainState) -> Restored:
    saved = _check_shapes(folder, abstract)
    wanted = names.stored(abstract)
    item = wanted
    if saved is not None and names.is_earlier(saved):
        item = names.arranged(wanted, saved)
    arguments = ocp.args.StandardRestore(item)  # pyright: ignore[reportCallIssue]
    with _reading(ocp.StandardCheckpointHandler()) as handler:
        found = handler.restore(folder / "state", args=arguments)
    state = dataclasses.replace(abstract, **names.arranged(found, wanted))
    data, meta = (_json(folder / name / "metadata") for name in ("data", "meta"))
    return restored_from(int(folder.name), state, data, meta)


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.parent.name}/{path.name}: {error}") from error


@contextmanager
def _verified(folder: Path, *, together: bool = False) -> Iterator[None]:
    """Compare a checkpoint with its digests while it is being read.

    Raises:
        DamagedError, OSError: see `digests.verified`.
    """
    if not _has_digests(folder):
        yield
        return
    share = (jax.process_index(), jax.process_count()) if together else (0, 1)
    with digests.verified(folder, share=share):
        yield


def _verify(folder: Path, *, contents: bool = True) -> None:
    if _has_digests(folder):
        digests.verify(folder, contents=contents)


def _check_name(folder: Path) -> None:
    """Refuse a checkpoint that somebody has given the name of another step.

    Its digests are of its files and know nothing of that name.
    """
    path = folder / "data" / "metadata"
    if path.exists() and _is_marked(record := _json(path)):
        step = _natural(record, "step", "data")
        if step != int(folder.name):
            raise ValueError(f"data/metadata: it is of step {step}")


def _has_digests(folder: Path) -> bool:
    """Say whether a checkpoint can be compared; one from before there were any not.

    Raises:
        DamagedError: it has lost its digests.
    """
    if digests.is_sealed(folder):
        return True
    position = folder / "data" / "metadata"
    if position.exists() and _is_marked(_json(position)):
        raise digests.DamagedError(f"{digests.FILE}: is gone")
    log.warning(
        "%s has no %s, like those that were written before there were any: whether its "
        "files are as they were written cannot be said.",
        *(folder, digests.FILE),
    )
    return False


def position_record(step: int, samples: int) -> dict[str, int | bool]:
    """Return what a checkpoint keeps of the stream's position, as JSON.

    Args:
        step: of the state.
        samples: of the stream that it has seen.
    """
    return {"step": step, "samples": samples, "sealed": True}


def _is_marked(record: object) -> bool:
    """Say whether a position is of a checkpoint that was sealed with digests."""
    return isinstance(record, Mapping) and "sealed" in record


def restored_from(step: int, state: TrainState, data: object, meta: object) -> Restored:
    """Put together what was read, if it goes together.

    Args:
        step: that names the checkpoint.
        state: that was read.
        data: what stands for the position, see `position_record`; in older
            checkpoints it counts steps.
        meta: what stands for the description.

    Raises:
        ValueError: naming the item that is not as it is written, or of another step.
    """
    if (found := int(state.step)) != step:
        raise ValueError(f"state: it is of step {found}, not of {step}")
    config = meta.get("config") if isinstance(meta, Mapping) else None
    if not isinstance(meta, Mapping) or not isinstance(config, Mapping):
        raise ValueError("meta/metadata: it is no description, with a config, of a run")
    for name, kind in _META.items():
        if not isinstance(meta.get(name, kind()), kind):
            raise ValueError(f"meta/metadata: its {name} is no {kind.__name__}")
    if not isinstance(data, Mapping):
        raise ValueError("data/metadata: it is no position")
    key = "step" if _is_marked(data) else "position"
    if _natural(data, key, "data") != step:
        raise ValueError(
            f"data/metadata: the position is that of step {data[key]}, not of {step}"
        )
    if _is_marked(data):
        return Restored(state, _natural(data, "samples", "data"), meta)
    batch = _natural(config.get("train"), "batch", "meta") if step else 0
    return Restored(state, step * batch, meta)


_META = {
    "config": dict,
    "environment": dict,
    "goodput": dict,
    "origins": dict,
    "stream": str,
}


def _natural(record: object, name: str, item: str) -> int:
    """Return a whole number ≥ 0 of a record of JSON in an item of a checkpoint."""
    value = record.get(name) if isinstance(record, Mapping) else None
    if type(value) is not int or value < 0:
        raise ValueError(f"{item}/metadata: its {name!r} is no whole number ≥ 0")
    return value


def _twice(folder: Path, reader: Callable[[], _Read]) -> _Read:
    """Read something of a checkpoint, once more if the file system fails.

    Raises:
        UnreadableError: it fails again.
    """
    try:
        return reader()
    except _GONE:
        raise
    except OSError as error:
        log.warning(
            "checkpoint %s could not be read (%s); it is tried once more.",
            *(folder, brief(error)),
        )
    try:
        return reader()
    except _GONE:
        raise
    except OSError as error:
        raise UnreadableError(
            f"checkpoint {folder} could not be read ({brief(error)}); it stays where "
            "it is. Check the file system and the permissions, then run again."
        ) from error


def _check_shapes(folder: Path, abstract: TrainState) -> PyTree | None:
    """Refuse a checkpoint of another config in a sentence, before reading it.

    Returns:
        The tree of its arrays' descriptions; None if that is damaged.

    Raises:
        CheckpointError: it holds other arrays than the state. One whose description
            is damaged is not refused here.
    """
    try:
        tree = _metadata(folder)
        saved, wanted = _shapes(tree), _shapes(names.stored(abstract))
        # A typed random key has another shape in a file than in memory.
        del saved["key"], wanted["key"]
    except DAMAGE:
        return None
    if problems := describe_differences(saved, wanted):
        raise CheckpointError(
            f"checkpoint {folder} was made with another config: {problems}. Use "
            "that config (it is stored beside it, in `meta`) or another --workdir."
        )
    return tree


def restore_params(
    directory: Path,
    subtree: str = "",
    shardings: Nested | Callable[[Shapes], Nested] | None = None,
    *,
    ema: bool = False,
    together: bool = False,
) -> tuple[Params, int]:
    """Read parameters alone, without optimizer, from the newest readable checkpoint.

    Args:
        directory: a stage's directory or its `checkpoints`.
        subtree: path of the part to read ('decoder'), '' for all.
        shardings: where to put each parameter, nested; what is not named is not read.
            A function is given the shapes that are there, by path, and may refuse
            them. None reads everything as NumPy arrays.
        ema: read their moving average instead, which a stage with `train.ema`
            keeps.
        together: all processes of the run call this alike and get the parameters of
            one checkpoint, which all of them can read. Without it no other process
            is waited for.

    Returns:
        The nested parameters and the step of the checkpoint.

    Raises:
        CheckpointError: no checkpoint, none readable, or no such subtree.
    """

    def reader(folder: Path) -> Params:
        with _verified(folder, together=together):
            places = shardings
            if callable(places):
                found = _described(folder, subtree, ema=ema)
                places = places({k: tuple(x.shape) for k, (_, x) in found.items()})
            return _restore_params(folder, subtree, places, ema=ema)

    return _newest(_folder(directory), reader, together=together)


def parameter_shapes(directory: Path, subtree: str = "") -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters under `subtree`, by path within it.

    Raises:
        CheckpointError: no checkpoint, none readable, or no such subtree.
    """

    def reader(folder: Path) -> dict[str, tuple[int, ...]]:
        _verify(folder, contents=False)
        found = _described(folder, subtree)
        return {path: tuple(leaf.shape) for path, (_, leaf) in found.items()}

    return _newest(_folder(directory), reader)[0]


def find_intact(directory: Path) -> Path:
    """Return the newest checkpoint whose files are as they were written.

    Raises:
        CheckpointError: no checkpoint, or none intact.
    """
    folder = _folder(directory)
    return folder / str(_newest(folder, _verify)[1])


def _newest(
    folder: Path, reader: Callable[[Path], _Read], *, together: bool = False
) -> tuple[_Read, int]:
    """Return what `reader` makes of the newest checkpoint it can read, and its step."""

    def named(path: Path) -> _Read:
        result = reader(path)
        _check_name(path)
        return result

    found = steps(folder)
    for step in compare(found)[0] if together else reversed(found):
        path = folder / str(step)
        attempt = functools.partial(_twice, path, functools.partial(named, path))
        if together:
            if (result := by_all(path, attempt)) is not None:
                return result, step
            continue
        try:
            return attempt(), step
        except DAMAGE as error:
            log.warning(
                "checkpoint %s is damaged (%s); the one before it is used.",
                *(path, brief(error)),
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


def brief(error: BaseException) -> str:
    """Return type and first line of a fault."""
    lines = str(error)[:300].splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'without a reason'}"


def _folder(directory: Path) -> Path:
    inner = directory / "checkpoints"
    return (inner if inner.is_dir() else directory).absolute()


def _metadata(folder: Path) -> PyTree:
    """Return the tree of array descriptions of one checkpoint."""
    with _reading(ocp.PyTreeCheckpointHandler()) as handler:
        return handler.metadata(folder / "state").tree


@contextmanager
def _reading(handler: Any) -> Iterator[Any]:
    """Close a handler of Orbax in the end, and sort its faults.

    What damage made it raise is a ValueError in the end, and a file system that failed
    an OSError; it may have wrapped either, and TensorStore's errors are ValueErrors.
    """
    _forget_reads()  # before any read can fail
    try:
        yield handler
    except (*DAMAGE, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, ValueError) and str(error).startswith(_FAILURES):
            raise OSError(str(error)) from error
        raise
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, MemoryError | jax.errors.JaxRuntimeError):
            raise
        if isinstance(cause, OSError) and not isinstance(cause, _GONE):
            raise OSError(str(cause)) from error
        if str(cause).startswith(_FAILURES):
            raise OSError(str(cause)) from error
        raise ValueError(brief(cause)) from error
    finally:
        handler.close()


@functools.cache
def _forget_reads() -> None:
    """Let Python say nothing from now on of reads that Orbax has left unfinished.

    When one array cannot be read, it closes the event loop of the others, each of
    which would be reported with a traceback beside the sentence that is said.
    """
    report, report_uncaught = sys.unraisablehook, sys.excepthook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        text = f"{unraisable.exc_value} {unraisable.object!r}"
        if not any(mark in text for mark in _LEFT):
            report(unraisable)

    def uncaught(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        # A thread of TensorStore prints what its callback to a closed loop raises.
        if str(error) != _LEFT[0]:
            report_uncaught(kind, error, trace)

    def of_others(record: logging.LogRecord) -> bool:
        # A read that failed after the first is reported by its event loop.
        text = record.getMessage()
        return not ("was never retrieved" in text and "orbax" in text)

    sys.unraisablehook, sys.excepthook = hook, uncaught
    logging.getLogger("asyncio").addFilter(of_others)


def _cause(error: BaseException) -> BaseException:
    """Return what an exception came from, through groups of them and chains."""
    while True:
        inner = error.__cause__ or error.__context__
        if isinstance(error, BaseExceptionGroup):
            inner = error.exceptions[0]
        if inner is None:
            return error
        error = inner


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in names.by_path(tree).items()}


def _described(
    folder: Path, subtree: str, *, ema: bool = False
) -> dict[str, tuple[Keys, PyTree]]:
    """Return keys in the file and description of every parameter under `subtree`.

    Raises:
        CheckpointError: there is no such subtree, or no moving average.
    """
    leaves = jax.tree_util.tree_leaves_with_path(_metadata(folder))
    found = {names.current(names.joined(keys)): (keys, leaf) for keys, leaf in leaves}
    root = "ema/" if ema else "params/"
    params = {
        path.removeprefix(root): entry
        for path, entry in found.items()
        if path.startswith(root)
    }
    if ema and not params:
        raise CheckpointError(
            f"{folder} holds no average of the parameters; train with train.ema, "
            "or use the parameters themselves."
        )
    if not params:
        raise LookupError("it holds no parameters")
    wanted = "".join(f"{name}/" for name in filter(None, subtree.split("/")))
    chosen = {
        path.removeprefix(wanted): entry
        for path, entry in params.items()
        if path.startswith(wanted)
    }
    if not chosen:
        raise CheckpointError(
            f"the checkpoints in {folder.parent} hold no {subtree!r}"
            f"{nearest(subtree, _beside(params, subtree))}"
        )
    return chosen


def _beside(paths: Iterable[str], subtree: str) -> set[str]:
    """Return the subtrees of paths that are as deep as `subtree`."""
    depth = subtree.strip("/").count("/") + 1
    return {"/".join(path.split("/")[:depth]) for path in paths}


def _restore_params(
    folder: Path, subtree: str, shardings: Nested | None, *, ema: bool
) -> Params:
    """Restore the parameters under `subtree`: NumPy arrays, or where they shall be."""
    described = _described(folder, subtree, ema=ema)
    places = {} if shardings is None else flatten(shardings)
    chosen = described if shardings is None else {k: described[k] for k in places}
    item: dict[str, PyTree] = {}
    how: dict[str, PyTree] = {}
    for path, (keys, leaf) in chosen.items():
        abstract = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        _put(item, keys, abstract)
        if path in places:
            _put(how, keys, ocp.ArrayRestoreArgs(sharding=places[path]))
        else:
            _put(how, keys, ocp.RestoreArgs(restore_type=np.ndarray))
    arguments = ocp.args.PyTreeRestore(item, restore_args=how, partial_restore=True)  # pyright: ignore[reportCallIssue]
    with _reading(ocp.PyTreeCheckpointHandler()) as handler:
        restored = handler.restore(folder / "state", args=arguments)
    return nest({path: _get(restored, keys) for path, (keys, _) in chosen.items()})


def _put(tree: dict[str, PyTree], keys: Keys, value: object) -> None:
    """Set what nested dictionaries hold under a path of keys."""
    *above, last = (key.key for key in keys)
    for name in above:
        tree = tree.setdefault(name, {})
    tree[last] = value


def _get(tree: Nested, keys: Keys) -> PyTree:
    """Return what nested dictionaries hold under a path of keys."""
    return functools.reduce(lambda node, key: node[key.key], keys, tree)
