"""The text of a compiled program: computations, instructions, FLOPs and bytes of each.

Reads what `compiled.as_text()` gives for a TPU: scheduled HLO, whose instructions are
in the order in which they run, with libtpu's own estimates in `backend_config`.
"""

import functools
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from unitoken_jax.config import UserError

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_START = re.compile(r"  (ROOT )?%?([\w.\-]+) = ")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(")
_END = re.compile(r"\}(?:, execution_thread=.*)?")
_NAME = re.compile(r"%([\w.\-]+)")
_OPCODE = re.compile(r"([a-z][\w\-]*)\(")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_ALIAS = re.compile(r"\{([\d, ]*)\}: \((\d+), \{[\d, ]*\}, (?:may|must)-alias\)")

log = logging.getLogger(__name__)

CALLS = ("calls", "to_apply", "body", "condition", "async_execution_thread")
MATMULS = ("convolution", "dot")
_PASSING = ("copy", "copy-start", "copy-done", "bitcast", "convert", "opt-barrier")
ASYNC = ("async-start", "call-start")
"""Begin what runs beside: a collective, or work of the SparseCores."""


class HloError(UserError, ValueError):
    """A program's text that cannot be read."""


@dataclass(frozen=True)
class Array:
    """Type and shape of one array; `space` 0 is HBM, others are on the chip."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.dims)

    @property
    def nbytes(self) -> float:
        """Bytes, without padding."""
        return self.size * _bits(self.dtype) / 8


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: unique in the program.
        opcode: as in HLO, 'fusion'.
        results: its arrays; several of a tuple.
        operands: names of the instructions it takes.
        literal: what stands between the parentheses.
        attributes: what follows them.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str

    @property
    def cycles(self) -> int | None:
        """Libtpu's estimate, if it gives one."""
        match = _CYCLES.search(self.attributes)
        return int(match[1]) if match else None

    @property
    def op_name(self) -> str:
        """Where it comes from in the traced program."""
        match = _OP_NAME.search(self.attributes)
        return match[1] if match else ""

    def attribute(self, name: str) -> str | None:
        """Value of `name=value`, up to the next comma; None if absent."""
        match = re.search(rf"(?:^|[ ,]){name}=([^,\s]*)", self.attributes)
        return match[1] if match else None

    def called(self, name: str) -> str | None:
        """The computation that an attribute names; None if absent."""
        match = re.search(rf"(?:^|[ ,]){name}=%?([\w.\-]+)", self.attributes)
        return match[1] if match else None


@dataclass(frozen=True)
class Computation:
    """Instructions in the order they run."""

    name: str
    instructions: tuple[Instruction, ...]

    @functools.cached_property
    def by_name(self) -> Mapping[str, Instruction]:
        """Instructions by name."""
        return {each.name: each for each in self.instructions}

    @functools.cached_property
    def users(self) -> Mapping[str, tuple[Instruction, ...]]:
        """Which instructions take the result of which."""
        users: dict[str, list[Instruction]] = {}
        for each in self.instructions:
            for operand in dict.fromkeys(each.operands):
                users.setdefault(operand, []).append(each)
        return {name: tuple(found) for name, found in users.items()}

    @property
    def root(self) -> Instruction:
        """Its result: the last instruction."""
        return self.instructions[-1]


@dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
        computations: by name.
        entry: where it begins.
        aliased: numbers of the arguments whose memory results reuse.
    """

    computations: Mapping[str, Computation]
    entry: str
    aliased: frozenset[int] = frozenset()
    _flops: dict[str, Counter] = field(default_factory=dict, compare=False)

    def walk(self) -> Iterator[tuple[Computation, Instruction, float]]:
        """Yield what runs, with how often; bodies of fusions are not entered."""
        yield from self._walk(self.computations[self.entry], 1.0)

    def _walk(
        self, computation: Computation, times: float
    ) -> Iterator[tuple[Computation, Instruction, float]]:
        for each in computation.instructions:
            yield computation, each, times
            if each.opcode == "while":
                body = self.computations[_required(each, "body")]
                trips = self.trips(computation, each)
                yield from self._walk(body, times * (1 if trips is None else trips))
            elif each.opcode in ("call", *ASYNC):
                name = each.called("to_apply") or _required(each, "calls")
                yield from self._walk(self.computations[name], times)
            elif each.opcode == "conditional":
                for name in branches(each):
                    yield from self._walk(self.computations[name], times)

    def trips(self, computation: Computation, loop: Instruction) -> int | None:
        """How often a `while` runs: (limit - start) / step of its counter.

        None if its condition does not compare a counter with a constant.
        """
        match = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
        if match:
            return int(match[1])
        comparison = self._comparison(self.computations[_required(loop, "condition")])
        if comparison is None:
            return None
        index, limit, inclusive = comparison
        carry = _source(computation, loop.operands[0])
        start = None
        if carry is not None and carry.opcode == "tuple":
            start = self._constant(computation, carry.operands[index])
        step = self._step(self.computations[_required(loop, "body")], index)
        if start is None or step is None:
            log.warning(
                "%s: where this loop begins or how it counts cannot be read; it is "
                "taken to count from 0 by 1",
                loop.name,
            )
        return max(0, -(-(limit - (start or 0) + inclusive) // (step or 1)))

    def flops(self, computation: Computation, instruction: Instruction) -> float:
        """Of the matrix products in an instruction, those inside fusions too."""
        return sum(self.products(computation, instruction).values())

    def products(self, computation: Computation, instruction: Instruction) -> Counter:
        """FLOPs of the matrix products in an instruction, by `product_kind`."""
        if instruction.opcode == "fusion":
            name = _required(instruction, "calls")
            if name not in self._flops:
                inner = self.computations[name]
                self._flops[name] = sum(
                    (self.products(inner, each) for each in inner.instructions),
                    Counter(),
                )
            return self._flops[name]
        if instruction.opcode not in MATMULS:
            return Counter()
        kind = product_kind(computation, instruction)
        return Counter({kind: matmul_flops(computation, instruction)})

    def computation_of(self, fusion: Instruction) -> Computation:
        """What a fusion computes."""
        return self.computations[_required(fusion, "calls")]

    def bytes(self, computation: Computation, instruction: Instruction) -> float:
        """HBM traffic of an instruction: operands and results that live there.

        A fusion that takes slices of an operand, or writes into one, moves those only.
        """
        own = _moved_by_name(computation, instruction)
        if own is not None:
            return own
        if instruction.opcode != "fusion":
            arrays = [
                array
                for operand in instruction.operands
                if operand in computation.by_name
                for array in computation.by_name[operand].results
            ]
            return _in_memory((*arrays, *instruction.results))
        inner = self.computation_of(instruction)
        total = 0.0
        for each in inner.instructions:
            if each.opcode == "parameter" and not each.results[0].space:
                total += _read(inner, each)
        roots = [inner.root]
        if inner.root.opcode == "tuple":
            roots = [inner.by_name[name] for name in inner.root.operands]
        return total + sum(_written(inner, root) for root in roots)

    def _comparison(self, condition: Computation) -> tuple[int, int, int] | None:
        root = condition.root
        inner = condition
        if root.opcode == "fusion":
            inner = self.computation_of(root)
            root = inner.root
        if root.opcode != "compare":
            return None
        direction = root.attribute("direction")
        # Of a counter and its limit, or the other way round.
        counter = {"LT": 0, "LE": 0, "GT": 1, "GE": 1}.get(direction or "")
        if counter is None:
            return None
        outer = condition.root.operands
        places: list[int | None] = []
        values: list[int | None] = []
        for name in root.operands:
            scope, each = inner, inner.by_name[name]
            if each.opcode == "parameter" and inner is not condition:
                scope, each = condition, condition.by_name[outer[int(each.literal)]]
            places.append(_index(scope, each.name))
            values.append(self._constant(scope, each.name))
        index, limit = places[counter], values[1 - counter]
        if index is None or limit is None:
            return None
        return index, limit, int(direction in ("LE", "GE"))

    def _constant(self, computation: Computation, name: str) -> int | None:
        each = _source(computation, name)
        if each is None or each.opcode != "constant":
            return None
        match = re.fullmatch(r"-?\d+", each.literal.strip())
        return int(match[0]) if match else None

    def _step(self, body: Computation, index: int) -> int | None:
        root = _source(body, body.root.name)
        if root is None or root.opcode != "tuple":
            return None
        each = _source(body, root.operands[index])
        if each is None:
            return None
        scope, outer = body, each
        if each.opcode == "fusion":
            scope = self.computation_of(each)
            each = scope.root
        if each.opcode != "add":
            return None
        for name in each.operands:
            operand = scope.by_name[name]
            if operand.opcode == "parameter" and scope is not body:
                found = self._constant(body, outer.operands[int(operand.literal)])
            else:
                found = self._constant(scope, name)
            if found:
                return found
        return None


def parse(text: str) -> Program:
    """Reads a program.

    Raises:
        HloError: the text has no entry.
    """
    computations: dict[str, Computation] = {}
    entry, name = None, None
    lines: list[str] = []
    for line in text.splitlines():
        header = _HEADER.match(line) if line.endswith("{") else None
        if header and not line.startswith(" "):
            name, lines = header[2], []
            entry = name if header[1] else entry
        elif name is not None and _END.fullmatch(line):
            read = tuple(_instruction(each) for each in lines)
            computations[name] = Computation(name, read)
            name = None
        elif name is not None:
            if _START.match(line):
                lines.append(line)
            elif lines:  # metadata of kernels goes over several lines
                lines[-1] += "\n" + line
        elif _START.match(line):
            raise HloError(
                "this program cannot be read: an instruction stands outside of its "
                f"computation, behind a line of a bracket alone: {line.strip()[:80]!r}"
            )
    if entry is None:
        raise HloError("this is no text of a compiled program: it has no entry")
    aliased = frozenset(int(found[2]) for found in _ALIAS.finditer(_first(text)))
    return Program(computations, entry, aliased)


def branches(conditional: Instruction) -> list[str]:
    """Computations that a conditional chooses from."""
    match = re.search(r"branch_computations=\{([^}]*)\}", conditional.attributes)
    if match:
        return _NAME.findall(match[1])
    return [
        name
        for key in ("true_computation", "false_computation")
        if (name := conditional.called(key))
    ]


def product_kind(computation: Computation, instruction: Instruction) -> str:
    """How the matrix units take a product: 'bf16', 'int8', 'high' or 'highest'.

    Float32 operands at the default precision are rounded to bfloat16; at the higher
    ones they go through in three or six passes.
    """
    types = {
        computation.by_name[name].results[0].dtype for name in instruction.operands[:2]
    }
    if types <= {"s8", "u8", "s4", "u4"}:
        return "int8"
    match = re.search(r"operand_precision=\{(\w+)", instruction.attributes)
    return match[1] if match and match[1] in ("high", "highest") else "bf16"


def matmul_flops(computation: Computation, instruction: Instruction) -> float:
    """FLOPs of one `dot` or `convolution`: two for every multiplied pair."""
    left, right = (
        computation.by_name[name].results[0].dims for name in instruction.operands[:2]
    )
    output = instruction.results[0]
    if instruction.opcode == "dot":
        match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        axes = [int(axis) for axis in match[1].split(",") if axis] if match else []
        return 2.0 * output.size * math.prod(left[axis] for axis in axes)
    labels = instruction.attribute("dim_labels") or ""
    match = re.fullmatch(r"(\w+)_(\w+)->(\w+)", labels)
    if match is None:
        raise HloError(f"convolution {instruction.name} has no dim_labels")
    inputs, kernel, outputs = match.groups()
    window = _window(instruction.attributes)
    pairs = 1.0
    for number, axis in enumerate(sorted(set(kernel) - {"i", "o"}, key=int)):
        pairs *= _valid(
            left[inputs.index(axis)],
            right[kernel.index(axis)],
            output.dims[outputs.index(axis)],
            **{key: values[number] for key, values in window.items()},
        )
    rows = output.dims[outputs.index("b")] * output.dims[outputs.index("f")]
    return 2.0 * rows * right[kernel.index("i")] * pairs


def _valid(
    size: int,
    kernel: int,
    output: int,
    *,
    stride: int,
    pad: int,
    lhs: int,
    rhs: int,
) -> int:
    """Pairs of output and kernel places that meet an element and not padding."""
    span = (size - 1) * lhs + 1
    place = np.arange(output)[:, None] * stride + np.arange(kernel)[None] * rhs - pad
    return int(((place >= 0) & (place < span) & (place % lhs == 0)).sum())


def _window(attributes: str) -> dict[str, list[int]]:
    match = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in match[1].split()) if match else {}
    axes = len(fields.get("size", "").split("x")) if fields else 0

    def numbers(key: str, default: int) -> list[int]:
        if key not in fields:
            return [default] * axes
        return [int(part.split("_")[0]) for part in fields[key].split("x")]

    return {
        "stride": numbers("stride", 1),
        "pad": numbers("pad", 0),
        "lhs": numbers("lhs_dilate", 1),
        "rhs": numbers("rhs_dilate", 1),
    }


def _first(text: str) -> str:
    return text[: text.find("\n")]


def _required(instruction: Instruction, attribute: str) -> str:
    name = instruction.called(attribute)
    if name is None:
        raise HloError(f"{instruction.opcode} {instruction.name} has no {attribute}")
    return name


def _instruction(line: str) -> Instruction:
    match = _START.match(line)
    if match is None:
        raise HloError(f"this line of a program cannot be read: {line[:80]!r}")
    rest = line[match.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    types, rest = rest[:end], rest[end:].lstrip()
    opcode = _OPCODE.match(rest)
    if opcode is None:
        raise HloError(f"this line of a program cannot be read: {line[:80]!r}")
    end = _closing(rest, opcode.end() - 1)
    literal = rest[opcode.end() : end]
    return Instruction(
        name=match[2],
        opcode=opcode[1],
        results=_arrays(types),
        operands=tuple(_NAME.findall(literal)),
        literal=literal,
        attributes=rest[end + 1 :],
    )


def _arrays(text: str) -> tuple[Array, ...]:
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        found.append(Array(dtype, sizes, int(space[1]) if space else 0))
    return tuple(found)


def _closing(text: str, start: int) -> int:
    depth = 0
    for place in range(start, len(text)):
        if text[place] == "(":
            depth += 1
        elif text[place] == ")":
            depth -= 1
            if not depth:
                return place
    raise HloError(f"a parenthesis of a program is not closed: {text[:80]!r}")


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    match = re.match(r"(?:bf|f|s|u|c)(\d+)", dtype)
    return int(match[1]) if match else 8


def _source(computation: Computation, name: str) -> Instruction | None:
    """Where a value comes from, behind what only passes it on."""
    each = computation.by_name.get(name)
    while each is not None:
        if each.opcode in _PASSING:
            each = computation.by_name.get(each.operands[0])
            continue
        whole = None
        if each.opcode == "get-tuple-element":
            whole = _source(computation, each.operands[0])
        if whole is None or whole.opcode != "tuple":
            break
        each = computation.by_name.get(whole.operands[_element(each)])
    return each


def _index(computation: Computation, name: str) -> int | None:
    """Which element of its tuple a value is; None if it is none."""
    each = _source(computation, name)
    if each is None or each.opcode != "get-tuple-element":
        return None
    return _element(each)


def _element(each: Instruction) -> int:
    index = each.attribute("index")
    if index is None:
        raise HloError(f"{each.name} takes an element of a tuple and not which")
    return int(index)


def _in_memory(arrays: tuple[Array, ...]) -> float:
    return sum(array.nbytes for array in arrays if not array.space)


def _moved_by_name(computation: Computation, instruction: Instruction) -> float | None:
    match instruction.opcode:
        case "dynamic-slice" | "slice" | "gather":
            return 2 * _in_memory(instruction.results)
        case "dynamic-update-slice":
            update = computation.by_name[instruction.operands[1]].results[0]
            return 2 * update.nbytes
        case "copy-start" | "slice-start":  # one of both may be on the chip
            source, target, *_ = instruction.results
            return target.nbytes * ((not source.space) + (not target.space))
    return None


_TRANSPARENT = ("bitcast", "reshape", "get-tuple-element")


def _read(inner: Computation, parameter: Instruction) -> float:
    """Bytes that a fusion reads of one parameter."""
    whole = parameter.results[0].nbytes
    total = 0.0
    for user in inner.users.get(parameter.name, ()):
        if user.opcode in ("dynamic-slice", "slice", "gather"):
            total += user.results[0].nbytes
        elif (
            user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name
        ):
            continue
        elif user.opcode in _TRANSPARENT and len(user.results) == 1:
            total += min(whole, _read(inner, user))
        else:
            return whole
    return min(whole, total)


def _written(inner: Computation, root: Instruction) -> float:
    """Bytes that a fusion writes for one of its results."""
    while root.opcode in _TRANSPARENT and root.operands[0] in inner.by_name:
        if root.results[0].space:
            return 0.0
        root = inner.by_name[root.operands[0]]
    if root.opcode == "parameter":
        return 0.0
    if root.opcode == "dynamic-update-slice":
        return inner.by_name[root.operands[1]].results[0].nbytes
    return _in_memory(root.results)
