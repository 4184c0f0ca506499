"""Matrix products in the type of the computation or, through qwix, in eight bits."""

import functools
import warnings
from collections.abc import Callable
from typing import Literal

import jax

Quantization = Literal["full", "int8", "fp8"]
"""In what a linear map multiplies; parameters and results keep their types.

- `full`: the type of the computation;
- `int8`: inputs, kernels and the gradients of results are rounded to 8-bit integers,
  with one scale for every row and column (its largest absolute value); the gradient of
  a kernel, which sums over all tokens, is multiplied in the type of the computation;
- `fp8`: likewise in float8 (e4m3, gradients too: the scales leave no need for the range
  of e5m2), the gradient of a kernel as well.
"""

Dtype = Literal["float32", "bfloat16", "float16"]
"""The type of a network's computation."""

Multiply = Callable[[jax.Array, jax.Array, jax.lax.DotDimensionNumbers], jax.Array]


def multiply(quantization: Quantization) -> Multiply:
    """Return what multiplies as `jax.lax.dot_general`, to call inside a Flax module.

    Raises:
        ValueError: an unknown name.
    """
    if quantization == "full":
        return jax.lax.dot_general
    return _quantized(quantization)


@functools.cache
def _quantized(quantization: str) -> Multiply:
    import qwix  # noqa: PLC0415, most runs need not wait for it

    # qwix's second factor is the kernel; what is not named follows the rule.
    rules = {
        "int8": qwix.QtRule(
            weight_qtype="int8",
            act_qtype="int8",
            bwd_qtype="int8",
            additional_qt_config={"drhs_grad_qtype": None},
        ),
        "fp8": qwix.QtRule(
            weight_qtype="float8_e4m3fn",
            act_qtype="float8_e4m3fn",
            bwd_qtype="float8_e4m3fn",
        ),
    }
    if quantization not in rules:
        raise ValueError(
            f"quantization {quantization!r} is not known; choose one of "
            f"full, {', '.join(rules)}"
        )
    provider = qwix.QtProvider([rules[quantization]])

    def multiply(
        x: jax.Array, kernel: jax.Array, dimensions: jax.lax.DotDimensionNumbers
    ) -> jax.Array:
        with warnings.catch_warnings():
            # qwix 0.1.8 names a class that Flax has renamed.
            warnings.filterwarnings("ignore", "'VariableState' was removed")
            return provider.dot_general(x, kernel, dimensions)

    return multiply
