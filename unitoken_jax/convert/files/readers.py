"""Our parameters slice by slice, from wherever they are: nothing more is held."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from unitoken_jax.convert.table import (
    Assignment,
    Constant,
    Counts,
    Slot,
    Table,
    check_source,
    import_one,
    initials,
    plan,
    spec_of,
    specs_of,
)
from unitoken_jax.convert.tensors import (
    Reader,
    Spec,
    WeightsError,
    is_floating,
    unfinite,
)


class PublishedReader:
    """A published checkpoint seen through its table as our parameters."""

    def __init__(
        self,
        table: Table,
        source: Mapping[str, object],
        abstract: Mapping[str, object],
        counts: Counts,
    ) -> None:
        """Check names, shapes, types and constants; read nothing else.

        Raises:
            WeightsError: see `plan` and `check_source`; or the layers of one stack
                differ in type.
        """
        shapes = specs_of(abstract)
        assignments = plan(table, shapes, counts)
        check_source(table, assignments, source)
        self._source = source
        self._places: dict[Slot, tuple[Assignment, int]] = {}
        self._last: tuple[str, tuple[np.ndarray, ...]] | None = None
        self._specs: dict[str, Spec] = {}
        self._depths: dict[str, int] = {}
        for key, assignment in assignments.items():
            if isinstance(assignment.rule, Constant):
                import_one(assignment, source)
                continue
            dtype = spec_of(source, key).dtype
            for part, slot in enumerate(assignment.slots):
                self._places[slot] = (assignment, part)
                self._depths[slot.path] = len(slot.index)
                spec = Spec(shapes[slot.path].shape, dtype)
                if self._specs.setdefault(slot.path, spec) != spec:
                    raise WeightsError(
                        f"{key} is {dtype} and the other layers of {slot.path} are"
                        f" {self._specs[slot.path].dtype}; give all of them one type"
                    )
        self._initials = {rule.path: rule for rule in initials(table)}
        for path, rule in self._initials.items():
            self._specs[path] = Spec(shapes[path].shape, self._specs[rule.like].dtype)
            self._depths[path] = 0

    @property
    def specs(self) -> dict[str, Spec]:
        """Shape and type of every parameter, by path."""
        return self._specs

    def read(self, path: str, index: tuple[int, ...]) -> np.ndarray:
        """The parameter at `path`, with `index` on its leading axes."""
        depth = self.stacked(path)
        if len(index) > depth:
            return self.read(path, index[:depth])[index[depth:]]
        if len(index) < depth:
            size = self._specs[path].shape[len(index)]
            return np.stack([self.read(path, (*index, i)) for i in range(size)])
        if path in self._initials:
            return self._initials[path].array(*self._specs[path])
        assignment, part = self._places[Slot(path, index)]
        # A packed tensor is asked for once for each of its parts.
        if self._last is None or self._last[0] != assignment.key:
            self._last = (assignment.key, import_one(assignment, self._source))
        return self._last[1][part]

    def stacked(self, path: str) -> int:
        """How many leading axes of a parameter are best read one by one."""
        return self._depths[path]


class SubtreeReader:
    """The part of another reader's parameters below a prefix, named without it."""

    def __init__(self, reader: Reader, prefix: str) -> None:
        self._reader = reader
        self._prefix = prefix

    @property
    def specs(self) -> dict[str, Spec]:
        """Shape and type of every parameter, by path."""
        return {
            path.removeprefix(self._prefix): spec
            for path, spec in self._reader.specs.items()
            if path.startswith(self._prefix)
        }

    def read(self, path: str, index: tuple[int, ...]) -> np.ndarray:
        """The parameter at `path`, with `index` on its leading axes."""
        return self._reader.read(self._prefix + path, index)

    def stacked(self, path: str) -> int:
        """How many leading axes of a parameter are best read one by one."""
        return self._reader.stacked(self._prefix + path)


class FiniteReader:
    """Another reader's parameters, none of which may be NaN or infinite."""

    def __init__(self, reader: Reader, where: str) -> None:
        self._reader = reader
        self._where = where

    @property
    def specs(self) -> Mapping[str, Spec]:
        """Shape and type of every parameter, by path."""
        return self._reader.specs

    def read(self, path: str, index: tuple[int, ...]) -> np.ndarray:
        """The parameter at `path`, with `index` on its leading axes.

        Raises:
            WeightsError: it holds a number that is not finite.
        """
        array = self._reader.read(path, index)
        if found := unfinite(array):
            at = f" {list(index)}" if index else ""
            raise WeightsError(
                f"{path}{at} of {self._where} holds {found}; such weights give nothing"
                " but NaN. Take an earlier checkpoint"
            )
        return array

    def stacked(self, path: str) -> int:
        """How many leading axes of a parameter are best read one by one."""
        return self._reader.stacked(path)


class CastReader:
    """Another reader's parameters, those of floating point in one type."""

    def __init__(self, reader: Reader, dtype: Any) -> None:
        self._reader = reader
        self._dtype = np.dtype(dtype)

    @property
    def specs(self) -> dict[str, Spec]:
        """Shape and type of every parameter, by path."""
        return {
            path: Spec(spec.shape, self._type(spec))
            for path, spec in self._reader.specs.items()
        }

    def _type(self, spec: Spec) -> np.dtype:
        return self._dtype if is_floating(spec.dtype) else spec.dtype

    def read(self, path: str, index: tuple[int, ...]) -> np.ndarray:
        """The parameter at `path`, with `index` on its leading axes."""
        dtype = self._type(self._reader.specs[path])
        array = self._reader.read(path, index)
        if array.dtype == dtype:
            return array
        with np.errstate(over="ignore"):
            cast = array.astype(dtype)
        if unfinite(cast):
            raise WeightsError(
                f"{path} has numbers beyond those of {dtype}, which would become"
                " infinite; choose bfloat16 or float32"
            )
        return cast

    def stacked(self, path: str) -> int:
        """How many leading axes of a parameter are best read one by one."""
        return self._reader.stacked(path)


class WatchedReader:
    """Another reader, which tells `watch` how many bytes every read gave."""

    def __init__(self, reader: Reader, watch: Callable[[int], Any]) -> None:
        self._reader = reader
        self._watch = watch

    @property
    def specs(self) -> Mapping[str, Spec]:
        """Shape and type of every parameter, by path."""
        return self._reader.specs

    def read(self, path: str, index: tuple[int, ...]) -> np.ndarray:
        """The parameter at `path`, with `index` on its leading axes."""
        array = self._reader.read(path, index)
        self._watch(array.nbytes)
        return array

    def stacked(self, path: str) -> int:
        """How many leading axes of a parameter are best read one by one."""
        return self._reader.stacked(path)
