"""Linear maps over one or several axes, and token embeddings."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.layers.parameter import Initializer, parameter
from unitoken_jax.layers.quantization import Quantization, multiply
from unitoken_jax.ops.embedding import Layout, lookup
from unitoken_jax.parallel.rules import constrain, partition


def fan_in_normal(inputs: int) -> Initializer:
    """Normal with variance 1 / fan-in, for kernels whose first axes are inputs.

    Args:
        inputs: how many leading axes are summed over.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        fan_in = math.prod(shape[:inputs])
        return jax.random.normal(key, shape, dtype) / math.sqrt(fan_in)

    return init


class Linear(nn.Module):
    """A linear map; parameters `kernel` [*inputs, *features] and, if wanted, `bias`.

    Attributes:
        features: sizes of the output axes.
        axes: logical names of the kernel's axes, inputs first.
        use_bias: whether a bias of shape `features` is added.
        kernel_init: initialiser of the kernel; normal, variance 1 / fan-in, if None.
        quantization: in what it multiplies, see `layers.quantization`.
        dtype: type of the computation.
    """

    features: tuple[int, ...]
    axes: tuple[str | None, ...]
    use_bias: bool = False
    kernel_init: Initializer | None = None
    quantization: Quantization = "full"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., *inputs] to [..., *features]."""
        inputs = len(self.axes) - len(self.features)
        shape = (*x.shape[x.ndim - inputs :], *self.features)
        init = self.kernel_init or fan_in_normal(inputs)
        kernel = parameter(self, "kernel", init, self.axes, shape)
        contracted = (tuple(range(x.ndim - inputs, x.ndim)), tuple(range(inputs)))
        output = multiply(self.quantization)(
            x.astype(self.dtype), kernel.astype(self.dtype), (contracted, ((), ()))
        )
        if self.use_bias:
            axes = self.axes[inputs:]
            bias = parameter(self, "bias", initializers.zeros, axes, self.features)
            output += bias.astype(self.dtype)
        return output


class Embedding(nn.Module):
    """Vectors of token ids; parameter `embedding` [V, D].

    Attributes:
        size: V.
        width: D.
        axes: logical names of the table's axes.
        table_init: initialiser of the table.
        dtype: type of the result.
    """

    size: int
    width: int
    axes: tuple[str, str] = ("vocab", "embed")
    table_init: Initializer = initializers.normal(0.02)
    dtype: str = "float32"

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Looks up ids [...] in [0, V); the result is [..., D]."""
        shape = (self.size, self.width)
        table = parameter(self, "embedding", self.table_init, self.axes, shape)

        return look_up(table, ids, self.axes, ("batch", "length"), self.dtype)


def look_up(
    table: jax.Array,
    ids: jax.Array,
    axes: tuple[str, str],
    ids_axes: tuple[str, ...],
    dtype: str,
) -> jax.Array:
    """Looks up rows of a table that is divided over the mesh in force.

    Args:
        table: [V, D].
        ids: integers of any shape, in [0, V).
        axes: logical names of the table's axes.
        ids_axes: logical names of the first axes of the ids; no other is divided.
        dtype: type of the result.

    Returns:
        [..., D].
    """

    def prepare(table: jax.Array) -> jax.Array:
        # Whole rows on every device, or the lookup would gather the result.
        return constrain(table.astype(dtype), axes[0], "width")

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return lookup(table, ids, prepare)
    names = (*ids_axes, *(None,) * ids.ndim)[: ids.ndim]
    layout = Layout(
        partition(axes, table.shape, mesh, "a table"),
        partition(names, ids.shape, mesh, "ids"),
    )
    return lookup(table, ids, prepare, layout if layout.scatters else None)
