"""The engine of every weight table: published names ↔ our parameter tree.

A table is a sequence of `Rule`, `Constant`, `Initial` and `Ignored`. It is read both
ways, tensor by tensor, so that a checkpoint of any size streams through: `plan` expands
the counters and checks names and shapes without touching a number, `import_pieces` and
`export_pieces` move one tensor at a time, `import_tensors` and `export_tensors` gather
them into a tree and a dict.
"""

import difflib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from unitoken_jax.convert.layouts import SAME, Layout, LayoutError, Shape, contiguous
from unitoken_jax.convert.tensors import (
    Reader,
    Spec,
    TreeReader,
    WeightsError,
    is_floating,
    unfinite,
)

Counts = Mapping[str, int | Sequence[int]]
_COUNTER = re.compile(r"\{(\w+)\}")
_LISTED = 4  # names shown of a long list


@dataclass(frozen=True)
class Rule:
    """One published tensor (or one per counter value) and where it lives with us.

    Attributes:
        key: published name; `{layer}` is a counter.
        path: ours, slash separated; several paths for a packed tensor. A counter of the
          key that is absent from the path is stacked on the leading axes, in the order
          in which the counters stand in the key.
        layout: the change of axes of one tensor, without the stacked axes.
    """

    key: str
    path: str | tuple[str, ...]
    layout: Layout = SAME

    @property
    def paths(self) -> tuple[str, ...]:
        """Our paths, one or several."""
        return (self.path,) if isinstance(self.path, str) else self.path


@dataclass(frozen=True)
class Constant:
    """A published tensor that never changes and that we do not store.

    It is checked on import and written on export, in the type of the parameter `like`.

    Attributes:
        key: published name, with counters.
        shape: published shape.
        value: one number for all places, or one for each place of the longest axis.
        like: path of the parameter whose type it has.
        derived: whether its own code computes it again: import then accepts any
            numbers, and files without it.
    """

    key: str
    shape: Shape
    value: float | tuple[float, ...]
    like: str
    derived: bool = False

    def array(self, dtype: np.dtype) -> np.ndarray:
        """The tensor; a tuple of values fills the longest axis."""
        value = np.asarray(self.value, np.float64)
        if value.ndim:
            long = [size if size == len(value) else 1 for size in self.shape]
            value = value.reshape(long)  # [C] → [1, C, 1, 1], say
        return np.broadcast_to(value, self.shape).astype(dtype)


@dataclass(frozen=True)
class Initial:
    """A parameter of ours that the published files lack: it begins at one number.

    Export refuses it when it is another number, as there is no place for it.

    Attributes:
        path: ours.
        value: the number in all places.
        like: path of the parameter whose type it has.
    """

    path: str
    value: float
    like: str

    def array(self, shape: Shape, dtype: np.dtype) -> np.ndarray:
        """The parameter as it begins."""
        return np.full(shape, self.value, dtype)


@dataclass(frozen=True)
class Ignored:
    """Published names (a shell pattern) that are dropped on import, and why."""

    pattern: str
    why: str


Table = Sequence[Rule | Constant | Initial | Ignored]


class Slot(NamedTuple):
    """A place in our tree: a path and an index on its stacked axes."""

    path: str
    index: tuple[int, ...]


class Assignment(NamedTuple):
    """One published tensor after its counters were filled in."""

    key: str
    rule: Rule | Constant
    slots: tuple[Slot, ...]  # empty for a constant
    shapes: tuple[Shape, ...]  # of our pieces
    published: Shape

    @property
    def derived(self) -> bool:
        """Whether the tensor may be absent from a source."""
        return isinstance(self.rule, Constant) and self.rule.derived


class Piece(NamedTuple):
    """Numbers for one slot of our tree."""

    path: str
    index: tuple[int, ...]
    array: np.ndarray


def kernel_and_bias(key: str, path: str, layout: Layout) -> Iterator[Rule]:
    """Rules of a linear map or a convolution, whose kernel has the layout."""
    yield Rule(f"{key}.weight", f"{path}/kernel", layout)
    yield Rule(f"{key}.bias", f"{path}/bias")


def norm(key: str, path: str) -> Iterator[Rule]:
    """Rules of a norm with scale and bias."""
    yield Rule(f"{key}.weight", f"{path}/scale")
    yield Rule(f"{key}.bias", f"{path}/bias")


def query_key_value(path: str, leaf: str) -> tuple[str, str, str]:
    """The paths of three maps that are packed in one published tensor."""
    return f"{path}/query/{leaf}", f"{path}/key/{leaf}", f"{path}/value/{leaf}"


def _values(counts: Counts, counter: str, key: str) -> Sequence[int]:
    if counter not in counts:
        raise WeightsError(
            f"the counter {{{counter}}} of {key} has no count; counts are given for"
            f" {_listed(counts)}"
        )
    count = counts[counter]
    return range(count) if isinstance(count, int) else count


def _expand(rule: Rule, counts: Counts) -> Iterator[tuple[str, tuple[Slot, ...]]]:
    """Every (key, slots) that a rule stands for."""
    counters = list(dict.fromkeys(_COUNTER.findall(rule.key)))
    values = [_values(counts, counter, rule.key) for counter in counters]
    for places in itertools.product(*(range(len(value)) for value in values)):
        chosen = {
            counter: value[place]
            for counter, value, place in zip(counters, values, places, strict=True)
        }
        slots = tuple(
            Slot(
                path.format(**chosen),
                tuple(
                    place
                    for counter, place in zip(counters, places, strict=True)
                    if f"{{{counter}}}" not in path
                ),
            )
            for path in rule.paths
        )
        yield rule.key.format(**chosen), slots


def plan(
    table: Table, specs: Mapping[str, Spec], counts: Counts
) -> dict[str, Assignment]:
    """Every published tensor of a model, by name: its shape and where it goes.

    Args:
        table: the rules.
        specs: our parameters by path, from `specs_of`.
        counts: how many of each counter, or which values (`{'level': (1, 2, 3)}`).

    Raises:
        WeightsError: two rules claim one name or one slot, a path is not in the model,
          or a parameter of the model is filled by no rule.
    """
    assignments: dict[str, Assignment] = {}
    filled: dict[str, set[tuple[int, ...]]] = {}
    for rule in table:
        if isinstance(rule, Ignored):
            continue
        if isinstance(rule, Initial):
            _piece_shape(Slot(rule.path, ()), specs, "what its files lack")
            filled.setdefault(rule.path, set()).add(())
            continue
        if isinstance(rule, Constant):
            wanted = ((key, ()) for key, _ in _expand(Rule(rule.key, ()), counts))
        else:
            wanted = _expand(rule, counts)
        for key, slots in wanted:
            if key in assignments:
                raise WeightsError(f"two rules of the table give the tensor {key}")
            shapes = tuple(_piece_shape(slot, specs, key) for slot in slots)
            for slot in slots:
                taken = filled.setdefault(slot.path, set())
                if slot.index in taken:
                    raise WeightsError(
                        f"two rules of the table fill {slot.path}{list(slot.index)},"
                        f" the second is {key}"
                    )
                taken.add(slot.index)
            if isinstance(rule, Constant):
                published = rule.shape
            else:
                published = rule.layout.published_shape(shapes)
            assignments[key] = Assignment(key, rule, slots, shapes, published)
    _check_filled(filled, specs)
    return assignments


def _piece_shape(slot: Slot, specs: Mapping[str, Spec], key: str) -> Shape:
    if slot.path not in specs:
        raise WeightsError(
            f"the table puts {key} at {slot.path}, which is not a parameter of this"
            f" model{_nearest(slot.path, specs)}; the model's configuration differs"
            " from the checkpoint's, or the table does not fit the model"
        )
    shape = specs[slot.path].shape
    stacked = shape[: len(slot.index)]
    if any(place >= size for place, size in itertools.zip_longest(slot.index, stacked)):
        raise WeightsError(
            f"{key} would be number {list(slot.index)} of the stack {slot.path}, whose"
            f" shape is {shape}: the checkpoint has more of them than the model"
        )
    return shape[len(slot.index) :]


def _check_filled(
    filled: Mapping[str, set[tuple[int, ...]]], specs: Mapping[str, Spec]
) -> None:
    unfilled = sorted(set(specs) - set(filled))
    if unfilled:
        raise WeightsError(
            f"{len(unfilled)} parameter(s) of the model are filled by no rule of the"
            f" table: {_listed(unfilled)}"
        )
    for path, indices in filled.items():
        depth = len(next(iter(indices)))
        size = math.prod(specs[path].shape[:depth])
        if len(indices) != size:
            raise WeightsError(
                f"{path} is a stack of {size} but the checkpoint fills {len(indices)}:"
                " the model has more layers than the checkpoint"
            )


def specs_of(tree: Mapping[str, object]) -> dict[str, Spec]:
    """Shape and type by path, of a tree of arrays or of abstract (boxed) values."""
    return TreeReader(tree).specs


def expected_shapes(
    table: Table, abstract: Mapping[str, object], counts: Counts
) -> dict[str, Shape]:
    """Published name → published shape, of a model given by its abstract tree."""
    assignments = plan(table, specs_of(abstract), counts)
    return {key: assignment.published for key, assignment in assignments.items()}


def check_source(
    table: Table, assignments: Mapping[str, Assignment], source: Mapping[str, object]
) -> None:
    """Refuse a source whose names or shapes differ from the plan.

    Raises:
        WeightsError: names every missing, unexpected and misshapen tensor (a few of a
          long list), with both shapes and the likely cause.
    """
    ignored = [rule.pattern for rule in table if isinstance(rule, Ignored)]
    missing = [
        key
        for key, assignment in assignments.items()
        if key not in source and not assignment.derived
    ]
    unexpected = [
        key
        for key in source
        if key not in assignments
        and not any(fnmatchcase(key, pattern) for pattern in ignored)
    ]
    foreign = {
        key: spec_of(source, key).dtype
        for key in assignments
        if key in source and not is_floating(spec_of(source, key).dtype)
    }
    faults = []
    if foreign:
        shown = _listed(f"{key} ({dtype})" for key, dtype in foreign.items())
        faults.append(
            f"{len(foreign)} tensor(s) hold no floating point numbers: {shown}; a"
            " quantized file is to be turned back first"
        )
    if missing:
        faults.append(f"{len(missing)} tensor(s) are missing: {_listed(missing)}")
    if unexpected:
        faults.append(
            f"{len(unexpected)} tensor(s) are not of this format: {_listed(unexpected)}"
        )
    if missing and unexpected:
        faults.append(_name_cause(missing, unexpected))
    misshapen = []
    for key, assignment in assignments.items():
        if key in source and not assignment.derived:
            found = spec_of(source, key).shape
            if found != assignment.published:
                misshapen.append((key, assignment.published, found))
    if misshapen:
        texts = [
            f"{key} should be {expected} and is {found}"
            f" ({_shape_cause(key, expected, found)})"
            for key, expected, found in misshapen[:_LISTED]
        ]
        if len(misshapen) > _LISTED:
            texts.append(f"and {len(misshapen) - _LISTED} more")
        faults.append(
            f"{len(misshapen)} tensor(s) have another shape: " + "; ".join(texts)
        )
    if faults:
        raise WeightsError(". ".join(fault for fault in faults if fault) + ".")


def _name_cause(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """Why names may differ: a prefix put in front of, or taken from, all of them."""
    for name in missing[:_LISTED]:
        for other in unexpected:
            if other.endswith("." + name):
                prefix = other[: -len(name)]
                return (
                    f"The source has {other!r} for {name!r}: its names carry the"
                    f" prefix {prefix!r}; take it off, or choose the format that has it"
                )
            if name.endswith("." + other):
                prefix = name[: -len(other)]
                return (
                    f"The source has {other!r} for {name!r}: its names lack the prefix"
                    f" {prefix!r}; add it, or choose the format without it"
                )
    if len(missing) > _LISTED:
        return ""  # another model, not a slip
    near = difflib.get_close_matches(missing[0], unexpected, n=1)
    return f"For {missing[0]!r} the nearest name is {near[0]!r}" if near else ""


def _shape_cause(key: str, expected: Shape, found: Shape) -> str:
    """The likely reason for a wrong shape."""
    if len(found) != len(expected):
        same = math.prod(found) == math.prod(expected)
        return (
            "the same numbers with other axes: a file of another format"
            if same
            else "another kind of layer"
        )
    if found == expected[::-1]:
        return "it looks transposed: a file of JAX layout, not PyTorch's"
    differing = [axis for axis in range(len(found)) if found[axis] != expected[axis]]
    if len(differing) > 1:
        return "the configuration is of another model size"
    axis = differing[0]
    wanted, got = expected[axis], found[axis]
    if "norm" in key and len(expected) == 2:
        return "its rows are those of another model_parallel_size or format"
    if 1 < got < wanted and wanted % got == 0 and wanted // got <= 8:
        return (
            f"one part of {wanted // got} on axis {axis}: a shard of a model-parallel"
            " checkpoint, or a smaller model"
        )
    return f"axis {axis} is that of a model of another size or vocabulary"


def spec_of(source: Mapping[str, Any], key: str) -> Spec:
    """Shape and type of a source's tensor, without reading it where it can say."""
    spec = getattr(source, "spec", None)
    if spec is not None:
        return spec(key)
    array = source[key]
    return Spec(tuple(array.shape), np.dtype(array.dtype))


def import_pieces(
    table: Table,
    source: Mapping[str, object],
    specs: Mapping[str, Spec],
    counts: Counts,
) -> Iterator[Piece]:
    """Our parameters slice by slice, each published tensor read once.

    Raises:
        WeightsError: see `plan` and `check_source`; or a tensor has numbers that the
          layout or a `Constant` cannot represent.
    """
    assignments = plan(table, specs, counts)
    check_source(table, assignments, source)
    types: dict[str, np.dtype] = {}
    for assignment in assignments.values():
        ours = import_one(assignment, source)
        for slot, piece in zip(assignment.slots, ours, strict=True):
            types[slot.path] = piece.dtype
            yield Piece(slot.path, slot.index, piece)
    for rule in initials(table):
        array = rule.array(specs[rule.path].shape, types[rule.like])
        yield Piece(rule.path, (), array)


def initials(table: Table) -> Iterator[Initial]:
    """The rules of parameters that the files of a table lack."""
    return (rule for rule in table if isinstance(rule, Initial))


def check_initials(table: Table, reader: Reader) -> None:
    """Refuse to write parameters for which the files of a table have no place.

    Raises:
        WeightsError: one of them is no longer as it began.
    """
    for rule in initials(table):
        if np.any(reader.read(rule.path, ()) != rule.value):
            raise WeightsError(
                f"the format has no place for {rule.path}, which is to hold"
                f" {rule.value} and holds other numbers: it was trained"
            )


def import_one(
    assignment: Assignment, source: Mapping[str, object]
) -> tuple[np.ndarray, ...]:
    """Our pieces of one published tensor of a plan; none for a constant.

    Raises:
        WeightsError: it has numbers that the layout or the constant cannot represent.
    """
    key, rule = assignment.key, assignment.rule
    if assignment.derived:
        return ()
    array = np.asarray(source[key])
    if found := unfinite(array):
        raise WeightsError(
            f"{key} holds {found}; such weights give nothing but NaN. The file is"
            " damaged, or its training diverged: take another one"
        )
    if isinstance(rule, Constant):
        _check_constant(key, rule, array)
        return ()
    try:
        return rule.layout.to_ours(array, assignment.shapes)
    except LayoutError as fault:
        raise WeightsError(f"{key}: {fault}") from fault


def _check_constant(key: str, rule: Constant, array: np.ndarray) -> None:
    if not np.array_equal(array, rule.array(array.dtype)):
        raise WeightsError(
            f"{key} should hold the constant {rule.value}, which the network never"
            " trains, and holds other numbers: the file was edited or is of another"
            " version of the network"
        )


def import_tensors(
    table: Table,
    source: Mapping[str, object],
    abstract: Mapping[str, object],
    counts: Counts,
    *,
    dtype: Any = None,
) -> dict[str, Any]:
    """Published tensors → a nested dict of NumPy arrays shaped as `abstract`.

    Args:
        table: the rules of the source's format.
        source: name → array; read one tensor at a time.
        abstract: our tree of shapes, as `jax.eval_shape` of `init` gives it.
        counts: how many of each counter.
        dtype: type of the result; the source's own when None (bfloat16 stays bfloat16).

    Raises:
        WeightsError: see `import_pieces`; or the layers of one stack differ in type.
    """
    specs = specs_of(abstract)
    leaves: dict[str, np.ndarray] = {}
    for path, index, array in import_pieces(table, source, specs, counts):
        if path not in leaves:
            leaves[path] = np.empty(specs[path].shape, dtype or array.dtype)
        elif dtype is None and leaves[path].dtype != array.dtype:
            raise WeightsError(
                f"the tensors stacked in {path} have the types {leaves[path].dtype} and"
                f" {array.dtype}; give one dtype for all"
            )
        leaves[path][index] = array
    return traverse_util.unflatten_dict(leaves, sep="/")


def export_pieces(
    table: Table, reader: Reader, counts: Counts
) -> Iterator[tuple[str, np.ndarray]]:
    """Published tensors one by one, contiguous, in the table's order.

    Raises:
        WeightsError: see `plan` and `check_initials`.
    """
    check_initials(table, reader)
    for assignment in plan(table, reader.specs, counts).values():
        yield assignment.key, export_one(assignment, reader)


def export_one(assignment: Assignment, reader: Reader) -> np.ndarray:
    """One published tensor of a plan, contiguous."""
    rule = assignment.rule
    if isinstance(rule, Constant):
        return rule.array(reader.specs[rule.like].dtype)
    ours = [reader.read(slot.path, slot.index) for slot in assignment.slots]
    return contiguous(rule.layout.to_theirs(ours))


def export_specs(
    assignments: Mapping[str, Assignment], specs: Mapping[str, Spec]
) -> dict[str, Spec]:
    """Shape and type of every published tensor of a plan, nothing read."""

    def dtype(assignment: Assignment) -> np.dtype:
        rule = assignment.rule
        like = rule.like if isinstance(rule, Constant) else assignment.slots[0].path
        return specs[like].dtype

    return {
        key: Spec(assignment.published, dtype(assignment))
        for key, assignment in assignments.items()
    }


def export_tensors(
    table: Table, params: Mapping[str, object], counts: Counts
) -> dict[str, np.ndarray]:
    """A nested dict of parameters → published name → NumPy array.

    Raises:
        WeightsError: see `export_pieces`.
    """
    return dict(export_pieces(table, TreeReader(params), counts))


def _nearest(name: str, names: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f" (the nearest is {near[0]})" if near else ""


def _listed(names: Any) -> str:
    names = list(names)
    text = ", ".join(names[:_LISTED]) or "nothing"
    return text + (f", … ({len(names) - _LISTED} more)" if len(names) > _LISTED else "")
