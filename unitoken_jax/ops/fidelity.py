"""How close two pictures are: PSNR and SSIM, per picture.

SSIM is that of Wang et al. 2004: Gaussian window of 11 pixels with σ = 1.5, K1 = 0.01,
K2 = 0.03, only where the window fits, averaged over places and channels.
"""

import jax
import jax.numpy as jnp
import numpy as np

_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03


def psnr(a: jax.Array, b: jax.Array, span: float = 2.0) -> jax.Array:
    """Peak signal-to-noise ratio of each picture in dB.

    Args:
        a: Pictures, float32 [B, H, W, C].
        b: Pictures of the same shape.
        span: Largest minus smallest possible value; 2 for pictures in [-1, 1].

    Returns:
        [B]; equal pictures give 100 dB, not infinity, so that means stay finite.
    """
    error = jnp.mean(jnp.square((a - b) / span), axis=(1, 2, 3))
    return -10 * jnp.log10(jnp.maximum(error, 1e-10))


def ssim(a: jax.Array, b: jax.Array, span: float = 2.0) -> jax.Array:
    """Structural similarity of each picture, at most 1.

    Args:
        a: Pictures, float32 [B, H, W, C], at least 11 pixels a side.
        b: Pictures of the same shape.
        span: Largest minus smallest possible value; 2 for pictures in [-1, 1].

    Returns:
        [B].

    Raises:
        ValueError: The window does not fit the pictures.
    """
    if min(a.shape[1:3]) < _WINDOW:
        raise ValueError(f"SSIM needs {_WINDOW} pixels a side, not {a.shape[1:3]}")
    mean_a, mean_b = _smooth(a), _smooth(b)
    # Differences of large squares: averages of centred values would be more exact but
    # the published definition, like its other implementations, takes them this way.
    variance_a = jnp.maximum(_smooth(a * a) - mean_a**2, 0)
    variance_b = jnp.maximum(_smooth(b * b) - mean_b**2, 0)
    covariance = _smooth(a * b) - mean_a * mean_b
    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    brightness = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return jnp.mean(brightness * structure, axis=(1, 2, 3))


def _smooth(x: jax.Array) -> jax.Array:
    """Average [B, H, W, C] with the Gaussian window, keeping whole windows only."""
    offset = np.arange(_WINDOW) - _WINDOW // 2
    window = np.exp(-(offset**2) / (2 * _SIGMA**2))
    window = jnp.asarray(window / window.sum(), x.dtype)
    batch, height, width, channels = x.shape
    # [B, H, W, C] → [B, C, H, W] → [B · C, H, W, 1]
    planes = jnp.moveaxis(x, -1, 1).reshape(batch * channels, height, width, 1)
    for shape in ((_WINDOW, 1), (1, _WINDOW)):
        planes = jax.lax.conv_general_dilated(
            planes,
            # [k, 1] → [k, 1, 1, 1], or [1, k] → [1, k, 1, 1]
            window.reshape(*shape, 1, 1),
            window_strides=(1, 1),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )
    # [B · C, h, w, 1] → [B, C, h, w]
    planes = planes.reshape(batch, channels, *planes.shape[1:3])
    return jnp.moveaxis(planes, 1, -1)
