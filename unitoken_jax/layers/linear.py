"""Linear maps over one or several axes."""

import jax
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.layers.parameter import Initializer, fan_in_normal, parameter
from unitoken_jax.layers.quantization import Quantization, multiply


class Linear(nn.Module):
    """A linear map; parameters `kernel` [*inputs, *features] and, if wanted, `bias`.

    Attributes:
        features: sizes of the output axes.
        axes: logical names of the kernel's axes, inputs first.
        use_bias: whether a bias of shape `features` is added.
        kernel_init: initializer of the kernel; normal, variance 1 / fan-in, if None.
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
