"""Where a computation first stops being finite.

A traced function is evaluated equation by equation. Whatever is not finite carries its
origin: the tensor that was not finite first while all that it was computed from still
was. Calls and loops run as a whole, and only those that give something that is not
finite are looked into, so that a network of many layers takes seconds. Infinities that
a mask removes again leave no trace in what is finite. What depends on no argument has
no origin: where a running maximum starts at -inf, that is meant.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from unitoken_jax.runtime.pytree import PyTree

Array = jax.Array | np.ndarray

_OWN = str(Path(__file__).parents[3])  # where our packages lie
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # what equations call their function


@dataclasses.dataclass(frozen=True)
class Origin:
    """The tensor that was not finite first.

    Attributes:
        name: 'decoder/head/kernel' of an input; of an intermediate its operation and
            the scope it stands in.
        line: of the source that computes it; '' of an input.
        shape: of the tensor.
        dtype: of the tensor.
        count: how many of its elements are not finite.
        index: of the first of them.
        value: of that one: nan, inf or -inf.
    """

    name: str
    line: str
    shape: tuple[int, ...]
    dtype: str
    count: int
    index: tuple[int, ...]
    value: float

    def sentence(self) -> str:
        """Say all of it."""
        place = f" ({self.line})" if self.line else ""
        total = int(np.prod(self.shape))
        return (
            f"{self.name}{place}, {self.dtype}{list(self.shape)}: {self.count:,} of "
            f"{total:,} elements are not finite, the first at {list(self.index)} is "
            f"{self.value}"
        )


def find(
    function: Callable[..., PyTree], *arguments: PyTree
) -> tuple[PyTree, dict[str, Origin]]:
    """Evaluate a function and find where its results stop being finite.

    Args:
        function: of trees of arrays; it is traced, not run.
        *arguments: its arguments; inputs are named by their path in the tuple of them,
            without the leading number if it is a tree.

    Returns:
        What the function gives, and for each of its results that is not finite (and
        depends on an argument), by path ('loss', 'gradients/decoder/head/kernel'), its
        `Origin`.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    values = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(arguments):
        name = jax.tree_util.keystr(path[1:], simple=True, separator="/")
        values.append(_Value(leaf, None if _is_finite(leaf) else _origin(leaf, name)))
    results = _run(closed.jaxpr, closed.consts, values, "")
    paths = jax.tree_util.tree_leaves_with_path(shapes)
    origins = {
        jax.tree_util.keystr(path, simple=True, separator="/"): result.origin
        for (path, _), result in zip(paths, results, strict=True)
        if result.origin is not None
    }
    tree = jax.tree.structure(shapes)
    return jax.tree.unflatten(tree, [r.array for r in results]), origins


@dataclasses.dataclass(frozen=True)
class _Value:
    """What stands in a variable; constant if it depends on no argument."""

    array: Array
    origin: Origin | None = None
    is_constant: bool = False


def _constant(array: Array) -> _Value:
    return _Value(array, is_constant=True)


def _run(
    jaxpr: Jaxpr, consts: Sequence[Array], arguments: Sequence[_Value], scope: str
) -> list[_Value]:
    """Evaluate a function's equations in order."""
    values = dict(zip(jaxpr.constvars, map(_constant, consts), strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Var | Literal) -> _Value:
        return _constant(atom.val) if isinstance(atom, Literal) else values[atom]

    # A value is let go of behind its last use: layers of a large model add up.
    last = {v: i for i, e in enumerate(jaxpr.eqns) for v in e.invars if not _fixed(v)}
    kept = {v for v in jaxpr.outvars if not _fixed(v)}
    for number, equation in enumerate(jaxpr.eqns):
        inputs = [read(atom) for atom in equation.invars]
        results = _evaluate(equation, inputs, scope)
        values |= dict(zip(equation.outvars, results, strict=True))
        for atom in equation.invars:
            if isinstance(atom, Literal):
                continue
            if last[atom] == number and atom not in kept:
                values.pop(atom, None)
    return [read(atom) for atom in jaxpr.outvars]


def _fixed(atom: Var | Literal) -> bool:
    return isinstance(atom, Literal)


def _evaluate(equation: JaxprEqn, inputs: list[_Value], scope: str) -> list[_Value]:
    """Evaluate one equation; give what is not finite its origin."""
    arrays = _bind(equation, [value.array for value in inputs])
    if all(value.is_constant for value in inputs):
        return [_constant(array) for array in arrays]
    wrong = [not _is_finite(array) for array in arrays]
    if not any(wrong):
        return [_Value(array) for array in arrays]
    origin = _foremost(inputs)
    if origin is None:
        inside = _scope(equation, scope)
        name = equation.primitive.name
        first = arrays[wrong.index(True)]
        origin = _look_inside(equation, inputs, inside) or _origin(
            first, f"{inside}: {name}" if inside else name, _line(equation)
        )
    return [
        _Value(a, origin if w else None) for a, w in zip(arrays, wrong, strict=True)
    ]


def _foremost(values: Sequence[_Value]) -> Origin | None:
    """Return the first origin, of a NaN if there is one: infinities may be meant."""
    origins = [value.origin for value in values if value.origin is not None]
    nans = (origin for origin in origins if math.isnan(origin.value))
    return next(nans, origins[0] if origins else None)


def _bind(equation: JaxprEqn, arrays: list[Array]) -> list[Array]:
    parameters = equation.primitive.get_bind_params(equation.params)
    with equation.ctx.manager:
        results = equation.primitive.bind(*arrays, **parameters)
    return list(results) if equation.primitive.multiple_results else [results]


def _look_inside(equation: JaxprEqn, inputs: list[_Value], scope: str) -> Origin | None:
    """Find the origin within an equation that is made of others, None if it is not."""
    parameters = equation.params
    match equation.primitive.name:
        case "scan":
            return _look_into_scan(equation, inputs, scope)
        case "while":
            return _look_into_while(equation, inputs, scope)
        case "cond":
            index = int(np.clip(inputs[0].array, 0, len(parameters["branches"]) - 1))
            return _first(parameters["branches"][index], inputs[1:], scope)
        case "shard_map":  # its equations see one device's part
            return None
    for name in _CALLS:
        inner = parameters.get(name)
        if isinstance(inner, Jaxpr):
            inner = ClosedJaxpr(inner, ())
        if isinstance(inner, ClosedJaxpr):
            return _first(inner, inputs, scope)
    return None


def _first(closed: ClosedJaxpr, inputs: Sequence[_Value], scope: str) -> Origin | None:
    if len(inputs) != len(closed.jaxpr.invars):
        return None
    return _foremost(_run(closed.jaxpr, closed.consts, inputs, scope))


def _look_into_scan(
    equation: JaxprEqn, inputs: list[_Value], scope: str
) -> Origin | None:
    parameters = equation.params
    body: ClosedJaxpr = parameters["jaxpr"]
    fixed, carried = parameters["num_consts"], parameters["num_carry"]
    run = jax.jit(_as_function(body))
    consts, carry = inputs[:fixed], inputs[fixed : fixed + carried]
    order = range(parameters["length"])
    for index in reversed(order) if parameters["reverse"] else order:
        parts = [
            dataclasses.replace(value, array=value.array[index])
            for value in inputs[fixed + carried :]
        ]
        arguments = [*consts, *carry, *parts]
        results = run(*(value.array for value in arguments))
        if not all(map(_is_finite, results)):
            return _first(body, arguments, f"{scope}[{index}]")
        carry = list(map(_Value, results[:carried]))
    return None


def _look_into_while(
    equation: JaxprEqn, inputs: list[_Value], scope: str
) -> Origin | None:
    parameters = equation.params
    body: ClosedJaxpr = parameters["body_jaxpr"]
    skipped, fixed = parameters["cond_nconsts"], parameters["body_nconsts"]
    arrays = [value.array for value in inputs]
    goes_on = jax.jit(_as_function(parameters["cond_jaxpr"]))
    run = jax.jit(_as_function(body))
    conditions = arrays[:skipped]
    consts, carry = arrays[skipped : skipped + fixed], arrays[skipped + fixed :]
    index = 0
    while bool(goes_on(*conditions, *carry)[0]):
        arguments = [*consts, *carry]
        carry = list(run(*arguments))
        if not all(map(_is_finite, carry)):
            return _first(body, list(map(_Value, arguments)), f"{scope}[{index}]")
        index += 1
    return None


def _as_function(closed: ClosedJaxpr) -> Callable[..., list[Array]]:
    return jaxpr_as_fun(closed)


def _is_finite(array: Array) -> bool:
    if not jnp.issubdtype(jnp.result_type(array), jnp.inexact):
        return True
    return bool(jnp.isfinite(array).all())


def _origin(array: Array, name: str, line: str = "") -> Origin:
    values = np.asarray(array)
    wrong = ~np.isfinite(values.astype(np.float32))
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    return Origin(
        name=name,
        line=line,
        shape=values.shape,
        dtype=str(values.dtype),
        count=int(wrong.sum()),
        index=index,
        value=float(values[index]),
    )


def _scope(equation: JaxprEqn, outer: str) -> str:
    """Return the module path of an equation, below that of the loops it stands in."""
    own = str(equation.source_info.name_stack)
    return "/".join(filter(None, (outer, own)))


def _line(equation: JaxprEqn) -> str:
    """Return 'ops/losses.py:41', the innermost line of ours that made an equation."""
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback else ():
        if frame.file_name.startswith(_OWN) and "site-packages" not in frame.file_name:
            path = Path(frame.file_name).relative_to(_OWN)
            return f"{path}:{frame.line_num}"
    return ""
