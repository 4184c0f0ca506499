"""Starting from parameters that an earlier stage, or another run, has trained."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from unitoken_jax.checkpoint.reader import (
    CheckpointError,
    Shapes,
    describe_differences,
    restore_params,
)
from unitoken_jax.checkpoint.weights_file import is_weights_file, read_params
from unitoken_jax.config import nearest
from unitoken_jax.runtime.pytree import PyTree, flatten, nest

log = logging.getLogger(__name__)

WHOLE = "all"
"""What stands for all parameters of a model in place of a part's name."""


def _prefix(subtree: str) -> str:
    """Return what the paths of a part begin with."""
    return "" if subtree == WHOLE else f"{subtree}/"


def part(source: str) -> tuple[str, str]:
    """Part 'STAGE_OR_PATH:subtree'; a path may hold colons itself."""
    path = Path(source)
    if path.is_dir() or is_weights_file(path):
        return source, ""
    name, colon, subtree = source.rpartition(":")
    return (name, subtree) if colon else (source, "")


def resolve_source(
    source: str, workdir: Path, stages: Mapping[str, object]
) -> tuple[Path, str]:
    """Split 'STAGE_OR_PATH:subtree' into a directory and a subtree.

    A name of one of `stages` stands for its directory in `workdir`; anything else is a
    path, of a stage or of a file of weights. Without ':' the whole of the source's
    parameters is meant.
    """
    name, subtree = part(source)
    directory = workdir / name if name in stages else Path(name)
    is_there = directory.is_file if is_weights_file(directory) else directory.is_dir
    if name not in stages and not is_there():
        raise CheckpointError(
            f"init: {source!r} names neither a stage nor a directory, nor a file of "
            f"weights{nearest(name, stages)}"
        )
    return directory, subtree


def warm_start(
    params: Mapping[str, PyTree],
    shardings: Mapping[str, PyTree],
    sources: Mapping[str, tuple[Path, str]],
) -> dict[str, PyTree]:
    """Replace subtrees of freshly initialized parameters by trained ones.

    Args:
        params: our nested parameters.
        shardings: where each of them lives, nested alike.
        sources: our subtree ('decoder', or 'all' of them) → directory of a stage and
            subtree there.

    Every parameter of a named subtree must be there, of the same shape; what else the
    source has is left out, and what is not named here stays fresh. The log says so.

    Raises:
        CheckpointError: a subtree that does not exist here or there, does not fit, or
            holds NaN or infinite numbers.
    """
    ours, places = flatten(params), flatten(shardings)
    shapes = {path: value.shape for path, value in ours.items()}
    fresh = set(ours)
    for subtree, (directory, theirs) in sources.items():
        prefix = _prefix(subtree)
        choice = _Choice(shapes, places, subtree, f"{directory}:{theirs}")
        if is_weights_file(directory):
            values, at = read_params(directory, theirs, choice), ""
        else:
            values, step = restore_params(directory, theirs, choice, together=True)
            at = f" at step {step}"
        found = flatten(values)
        _check_finite(found, subtree, f"{directory}:{theirs}")
        # Converted checkpoints may be bfloat16; what trains keeps its own type.
        ours |= {
            prefix + path: value.astype(ours[prefix + path].dtype)
            for path, value in found.items()
        }
        fresh -= {prefix + path for path in choice.wanted}
        size = sum(math.prod(shape) for shape in choice.wanted.values())
        unused = ", ".join(choice.unused)
        log.info(
            "%s: %d arrays, %s parameters, from %s of %s%s%s",
            *(subtree, len(choice.wanted), f"{size:,}", theirs or "all"),
            *(directory, at, f"; {unused} there is not used" if unused else ""),
        )
    if sources and fresh:
        tops = sorted({path.split("/")[0] for path in fresh})
        log.info("fresh: %s", ", ".join(tops))
    return nest(ours)


def _check_finite(values: Mapping[str, PyTree], subtree: str, source: str) -> None:
    """Refuse to start from numbers that every step would turn into NaN."""

    @jax.jit
    def judge(values: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {path: jnp.isfinite(value).all() for path, value in values.items()}

    bad = [path for path, finite in judge(values).items() if not finite]
    if bad:
        shown = ", ".join(bad[:4]) + (f" and {len(bad) - 4} more" if bad[4:] else "")
        raise CheckpointError(
            f"init.{subtree}: {shown} of {source} hold NaN or infinite numbers; start "
            "from an earlier checkpoint, or convert the weights again."
        )


class _Choice:
    """Chooses what to read of a checkpoint, by the shapes that it holds.

    Attributes:
        wanted: shapes of our subtree, by path within it.
        unused: names of parts that are there and not read.
    """

    def __init__(
        self, shapes: Shapes, places: Mapping[str, PyTree], subtree: str, source: str
    ) -> None:
        self._shapes, self._places = shapes, places
        self._subtree, self._source = subtree, source
        self.wanted: Shapes = {}
        self.unused: list[str] = []

    def __call__(self, found: Shapes) -> dict[str, PyTree]:
        """Return where each parameter shall live, nested."""
        self.wanted = check_part(self._shapes, self._subtree, found, self._source)
        left = found.keys() - self.wanted.keys()
        self.unused = sorted({path.split("/")[0] for path in left})
        return nest(
            {path: self._places[_prefix(self._subtree) + path] for path in self.wanted}
        )


def check_part(shapes: Shapes, subtree: str, found: Shapes, source: str) -> Shapes:
    """Check that parameters can replace a subtree of ours.

    Args:
        shapes: of all our parameters, by path.
        subtree: of ours, to be replaced.
        found: shapes there, by path within their subtree.
        source: what those are called in messages.

    Returns:
        The shapes of our subtree, by path within it.

    Raises:
        CheckpointError: we have no such subtree, or they do not fit.
    """
    prefix = _prefix(subtree)
    wanted = {
        path.removeprefix(prefix): shape
        for path, shape in shapes.items()
        if path.startswith(prefix)
    }
    if not wanted:
        if subtree in shapes:
            raise CheckpointError(
                f"init.{subtree}: this is a single parameter, and only parts are "
                f"started from another stage; name the whole model: init.{WHOLE}."
            )
        tops = {path.split("/")[0] for path in shapes}
        raise CheckpointError(
            f"init.{subtree}: this model has no such part"
            f"{nearest(subtree, [*sorted(tops), WHOLE])}"
        )
    shared = {path: shape for path, shape in found.items() if path in wanted}
    if problems := describe_differences(shared, wanted):
        raise CheckpointError(
            f"init.{subtree}: the parameters of {source} do not fit: {problems}. "
            "Make the two configs agree."
        )
    return wanted
