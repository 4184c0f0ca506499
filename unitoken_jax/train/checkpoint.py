"""Checkpoints: the state, the data's position and a description, through Orbax.

A checkpoint directory holds one folder per step with three items: `state` (arrays, in
Orbax's own sharded layout), `data` (the position of the stream) and `meta` (the full
config, versions and revision). Saving copies the arrays to the host and writes in the
background. A checkpoint that cannot be read is set aside, and the one before it used.
This module is the only one that knows Orbax.
"""

import dataclasses
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from unitoken_jax.config import UserError, nearest
from unitoken_jax.train.paths import flatten, nest
from unitoken_jax.train.state import TrainState

log = logging.getLogger(__name__)

_SHOWN = 3  # offenders named in a message
# What readers raise on damaged bytes; running out of memory is not among it.
_DAMAGE = (OSError, ValueError, LookupError, TypeError)


class CheckpointError(UserError):
    """A checkpoint is missing, does not fit or could not be written."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Save every so many steps (and at the end), keep the newest `keep`."""

    every: int = 1000
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1.")


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
    """Saves and restores the states of one run in one directory."""

    def __init__(self, directory: Path, config: CheckpointConfig) -> None:
        self.directory = directory.absolute()
        self.config = config
        with self._writing("opened"):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self.config.keep,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        return ocp.CheckpointManager(self.directory, options=options)

    def save(self, state: TrainState, position: int, meta: Mapping[str, Any]) -> None:
        """Start saving `state` unless its step is saved already.

        Returns when the arrays are copied, so the step may reuse their buffers. A
        failure to write is raised here, by a later `save` or by `close`.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),  # pyright: ignore[reportCallIssue]
            data=ocp.args.JsonSave({"position": position}),  # pyright: ignore[reportCallIssue]
            meta=ocp.args.JsonSave(dict(meta)),  # pyright: ignore[reportCallIssue]
        )
        with self._writing("written"):
            self._manager.save(step, args=items, force=True)

    def restore(self, abstract: TrainState) -> Restored | None:
        """Restore the newest checkpoint that can be read, or None if there is none.

        Args:
            abstract: the state as `jax.ShapeDtypeStruct`s with shardings.

        Raises:
            CheckpointError: the checkpoint holds other arrays than the state, or there
                are checkpoints and none can be read.
        """
        found = sorted(self._manager.all_steps(), reverse=True)
        for step in found:
            try:
                self._check_shapes(step, abstract)
                return self._restore(step, abstract)
            except CheckpointError:
                raise
            except _DAMAGE as error:
                self._set_aside(step, error)
        if found:
            raise CheckpointError(
                f"none of the {len(found)} checkpoints in {self.directory} can be "
                f"read; they are kept in {self._damaged}. Start again with another "
                "--workdir, or without that folder."
            )
        return None

    def _restore(self, step: int, abstract: TrainState) -> Restored:
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract),  # pyright: ignore[reportCallIssue]
                data=ocp.args.JsonRestore(),
                meta=ocp.args.JsonRestore(),
            ),
        )
        return Restored(items["state"], int(items["data"]["position"]), items["meta"])

    def _check_shapes(self, step: int, abstract: TrainState) -> None:
        """Refuse a checkpoint of another config in a sentence, before reading it."""
        folder = self.directory / str(step)
        saved, wanted = _shapes(_metadata(folder)), _shapes(abstract)
        # A typed random key has another shape in a file than in memory.
        del saved["key"], wanted["key"]
        if problems := describe_differences(saved, wanted):
            raise CheckpointError(
                f"checkpoint {folder} was made with another config: {problems}. Use "
                "that config (it is stored beside it, in `meta`) or another --workdir."
            )

    def _set_aside(self, step: int, error: Exception) -> None:
        self._damaged.mkdir(exist_ok=True)
        target = self._damaged / str(step)
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(self.directory / str(step), target)
        log.warning(
            "checkpoint %d is damaged (%s); it is moved to %s and the one before "
            "it is used.",
            *(step, _brief(error), target),
        )
        self._manager.close()
        self._manager = self._open()

    @property
    def _damaged(self) -> Path:
        return self.directory.parent / f"{self.directory.name}-damaged"

    def wait(self) -> None:
        """Block until everything is written."""
        with self._writing("written"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and stop the background threads."""
        with self._writing("written"):
            self._manager.close()

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the file system's, Orbax's or TensorStore's
            kept = steps(self.directory)
            left = f"the newest complete one is {kept[-1]}" if kept else "there is none"
            raise CheckpointError(
                f"a checkpoint in {self.directory} could not be {what} "
                f"({_brief(error)}); {left}. "
                "Check the space left and the permissions, then run again to resume."
            ) from error


def restore_params(
    directory: Path, subtree: str = "", shardings: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], int]:
    """Read parameters alone, without optimiser, from the newest readable checkpoint.

    Args:
        directory: a stage's directory or its `checkpoints`.
        subtree: path of the part to read ('decoder'), '' for all.
        shardings: where to put each parameter, nested; what is not named is not read.
            None reads everything as NumPy arrays.

    Returns:
        The nested parameters and the step of the checkpoint.

    Raises:
        CheckpointError: no checkpoint, none readable, or no such subtree.
    """
    folder = _folder(directory)
    for step in sorted(steps(folder), reverse=True):
        try:
            return _restore_params(folder / str(step), subtree, shardings), step
        except CheckpointError:
            raise
        except _DAMAGE as error:
            log.warning(
                "checkpoint %s is damaged (%s); the one before it is used.",
                *(folder / str(step), _brief(error)),
            )
    raise CheckpointError(f"there is no readable checkpoint in {folder}.")


def parameter_shapes(directory: Path, subtree: str = "") -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters under `subtree`, by path within it.

    Raises:
        CheckpointError: no checkpoint, or no such subtree.
    """
    folder = _folder(directory)
    found = steps(folder)
    if not found:
        raise CheckpointError(f"there is no checkpoint in {folder}.")
    tree = _select(_metadata(folder / str(found[-1]))["params"], subtree, folder)
    return {path: tuple(leaf.shape) for path, leaf in flatten(tree).items()}


def describe_differences(
    saved: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> str:
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
    handler: Any = ocp.PyTreeCheckpointHandler()
    try:
        return handler.metadata(folder / "state").tree
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
    handler: Any = ocp.PyTreeCheckpointHandler()
    arguments = ocp.args.PyTreeRestore(item, restore_args=how, partial_restore=True)  # pyright: ignore[reportCallIssue]
    try:
        restored = handler.restore(folder / "state", args=arguments)
    finally:
        handler.close()
    return _select(restored, "/".join(names), folder)
