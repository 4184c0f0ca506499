"""Vector quantization: nearest codes, straight-through gradients, usage statistics.

Codebooks are one array [C, V, E]: C codebooks of V entries of E channels. One interface
serves the four published forms: a single Euclidean codebook (VQGAN), a single
normalized one (ViT-VQGAN), several side by side on slices of the channels (UniTok,
arXiv 2502.20321), and several in sequence on what the earlier ones left (residual VQ).
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from unitoken_jax.ops.normalization import l2_normalize


class Quantized(NamedTuple):
    """What a quantizer says about latents [B, T, D]."""

    vectors: jax.Array
    """[B, T, D]: code vectors whose gradient is that of the latents."""
    codes: jax.Array
    """int32 [B, T, C]."""
    loss: jax.Array
    """Scalar: codebook and commitment terms, mean over elements and codebooks."""


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """How latents become codes.

    Attributes:
        structure: "split" gives each codebook its slice of the channels (one codebook
            is the ordinary VQ), "residual" gives each what the earlier ones left.
        normalize: compare and return vectors of length one (per codebook).
        beta: weight of the slower of the two terms of the loss.
        legacy: True weights the codebook term with `beta`, as Chameleon's VQGAN was
            trained; False the commitment term, as the VQ-VAE paper and UniTok do.
        chunk: positions whose distances to all codes are held at once; 0 means all.
    """

    structure: Literal["split", "residual"] = "split"
    normalize: bool = False
    beta: float = 0.25
    legacy: bool = False
    chunk: int = 0

    def __call__(self, latents: jax.Array, codebooks: jax.Array) -> Quantized:
        """Quantize latents.

        Args:
            latents: [B, T, D]; D is C·E for "split" and E for "residual".
            codebooks: [C, V, E].

        Returns:
            Straight-through vectors, codes and loss, computed in float32.
        """
        latents = latents.astype(jnp.float32)
        if self.structure == "residual":
            return self._residual(latents, codebooks)
        split = self._split(latents, codebooks)  # [B, T, C, E]
        if self.normalize:
            split, codebooks = l2_normalize(split), l2_normalize(codebooks)
        codes = nearest(split, codebooks, self.chunk)
        chosen = _take(codebooks, codes)  # [B, T, C, E]
        # [B, T, C, E] → [B, T, D]
        vectors = straight_through(split, chosen).reshape(latents.shape)
        return Quantized(vectors, codes, self._loss(split, chosen))

    def codes(self, latents: jax.Array, codebooks: jax.Array) -> jax.Array:
        """Codes int32 [B, T, C] of latents [B, T, D]."""
        return self(latents, codebooks).codes

    def lookup(self, codes: jax.Array, codebooks: jax.Array) -> jax.Array:
        """Vectors [B, T, D] of codes [B, T, C]; NaN for a code beyond the codebook."""
        if self.normalize:
            codebooks = l2_normalize(codebooks)
        chosen = _take(codebooks, codes)  # [B, T, C, E]
        if self.structure == "residual":
            return chosen.sum(-2)
        # [B, T, C, E] → [B, T, D]
        return chosen.reshape(*codes.shape[:-1], -1)

    def revival(
        self, latents: jax.Array, codebooks: jax.Array, counts: jax.Array
    ) -> jax.Array:
        """`revival_loss` of every codebook, mean over them.

        Args:
            latents: [B, T, D], as for `__call__`.
            codebooks: [C, V, E].
            counts: [C, V], how many of these latents chose each code.
        """
        latents = lax.stop_gradient(latents.astype(jnp.float32))
        if self.structure == "residual":
            if self.normalize:
                latents, codebooks = l2_normalize(latents), l2_normalize(codebooks)
            # What each codebook was given: all but what the earlier ones took.
            chosen = self._residual(latents, codebooks).codes
            taken = lax.stop_gradient(_take(codebooks, chosen))  # [B, T, C, E]
            seen = latents[:, :, None] - jnp.cumsum(taken, 2) + taken
        else:
            seen = self._split(latents, codebooks)
            if self.normalize:
                seen, codebooks = l2_normalize(seen), l2_normalize(codebooks)
        # [B, T, C, E] → [C, B, T, E] → [C, B · T, E]
        seen = jnp.moveaxis(seen, 2, 0).reshape(codebooks.shape[0], -1, seen.shape[-1])
        return jnp.mean(jax.vmap(revival_loss)(seen, codebooks, counts))

    def _loss(self, latents: jax.Array, chosen: jax.Array) -> jax.Array:
        commitment = jnp.mean(jnp.square(lax.stop_gradient(chosen) - latents))
        codebook = jnp.mean(jnp.square(chosen - lax.stop_gradient(latents)))
        if self.legacy:
            return commitment + self.beta * codebook
        return self.beta * commitment + codebook

    def _residual(self, latents: jax.Array, codebooks: jax.Array) -> Quantized:
        if latents.shape[-1] != codebooks.shape[-1]:
            raise ValueError(
                f"a residual quantizer has codes as wide as its latents, but got "
                f"{codebooks.shape[-1]} channels for latents of {latents.shape[-1]}"
            )
        if self.normalize:
            latents, codebooks = l2_normalize(latents), l2_normalize(codebooks)
        left, codes, losses = latents, [], []
        for codebook in codebooks:
            stage = nearest(left[:, :, None], codebook[None], self.chunk)  # [B, T, 1]
            chosen = _take(codebook[None], stage)[:, :, 0]  # [B, T, E]
            losses.append(self._loss(left, chosen))
            left = left - lax.stop_gradient(chosen)
            codes.append(stage)
        indices = jnp.concatenate(codes, -1)
        vectors = straight_through(latents, _take(codebooks, indices).sum(-2))
        return Quantized(vectors, indices, jnp.stack(losses).mean())

    @staticmethod
    def _split(latents: jax.Array, codebooks: jax.Array) -> jax.Array:
        count, _, width = codebooks.shape
        if latents.shape[-1] != count * width:
            raise ValueError(
                f"{count} codebooks of {width} channels need latents of "
                f"{count * width} channels, not {latents.shape[-1]}"
            )
        # [B, T, D] → [B, T, C, E]
        return latents.reshape(*latents.shape[:-1], count, width)


def straight_through(latents: jax.Array, chosen: jax.Array) -> jax.Array:
    """The value of `chosen` (up to rounding) with the gradient of `latents`."""
    return latents + lax.stop_gradient(chosen - latents)


def nearest(latents: jax.Array, codebooks: jax.Array, chunk: int = 0) -> jax.Array:
    """Index of the nearest code by Euclidean distance; the first of equals wins.

    The search runs over chunks of positions, so that no more than
    [B, chunk, C, V] distances exist at once; samples stay on their own axis, so that a
    batch sharded over devices is searched where it lies.

    Args:
        latents: [B, T, C, E].
        codebooks: [C, V, E].
        chunk: positions at once; 0 means all T.

    Returns:
        int32 [B, T, C], without gradient.
    """
    latents = lax.stop_gradient(latents.astype(jnp.float32))
    codebooks = lax.stop_gradient(codebooks.astype(jnp.float32))
    length = jnp.sum(jnp.square(codebooks), -1)  # [C, V]

    def search(part: jax.Array) -> jax.Array:
        # The expanded form, term by term as published, decides near-ties alike.
        # [B, t, C, E] · [C, V, E] → [B, t, C, V]
        product = jnp.einsum(
            "btce,cve->btcv", part, codebooks, precision=lax.Precision.HIGHEST
        )
        square = jnp.sum(jnp.square(part), -1, keepdims=True)
        return jnp.argmin(square + length - 2 * product, -1).astype(jnp.int32)

    batch, positions, count, width = latents.shape
    if not 0 < chunk < positions:
        return search(latents)
    steps = -(-positions // chunk)
    padded = jnp.pad(latents, ((0, 0), (0, steps * chunk - positions), (0, 0), (0, 0)))
    # [B, steps · t, C, E] → [B, steps, t, C, E] → [steps, B, t, C, E]
    parts = padded.reshape(batch, steps, chunk, count, width).swapaxes(0, 1)
    codes = lax.map(search, parts)  # [steps, B, chunk, C]
    # [steps, B, t, C] → [B, steps, t, C] → [B, T, C]
    return codes.swapaxes(0, 1).reshape(batch, -1, count)[:, :positions]


def _take(codebooks: jax.Array, codes: jax.Array) -> jax.Array:
    """Vectors [B, T, C, E] that codes [B, T, C] name in codebooks [C, V, E]."""
    take = jax.vmap(lambda book, index: jnp.take(book, index, axis=0), (0, -1), -2)
    return take(codebooks, codes)


def count_codes(codes: jax.Array, size: int) -> jax.Array:
    """How often each code of each codebook occurs.

    Args:
        codes: int32 [..., C].
        size: number V of codes in a codebook.

    Returns:
        float32 [C, V].
    """
    # [..., C] → [N, C]
    flat = codes.reshape(-1, codes.shape[-1])
    count = jax.vmap(lambda c: jnp.bincount(c, length=size), in_axes=1)
    return count(flat).astype(jnp.float32)


def usage(counts: jax.Array) -> jax.Array:
    """Share [C] of the codes that occur at all; `counts` is [C, V]."""
    return jnp.mean((counts > 0).astype(jnp.float32), -1)


def published_usage(counts: jax.Array) -> jax.Array:
    """UniTok's usage [C] in per cent: codes above a hundredth of the even share."""
    size = counts.shape[-1]
    share = counts / jnp.maximum(counts.sum(-1, keepdims=True), 1)
    return 100 * jnp.mean((share > 0.01 / size).astype(jnp.float32), -1)


def dead_codes(counts: jax.Array) -> jax.Array:
    """Number int32 [C] of codes that never occur; `counts` is [C, V]."""
    return jnp.sum((counts == 0).astype(jnp.int32), -1)


def entropy(counts: jax.Array) -> jax.Array:
    """Entropy [C] in nats of the distribution of codes; `counts` is [C, V]."""
    share = counts / jnp.maximum(counts.sum(-1, keepdims=True), 1)
    return -jnp.sum(jax.scipy.special.xlogy(share, share), -1)


def perplexity(counts: jax.Array) -> jax.Array:
    """Number [C] of equally likely codes that have the entropy of `counts` [C, V]."""
    return jnp.exp(entropy(counts))


def effective_rank(latents: jax.Array) -> jax.Array:
    """Over how many directions latents spread: (Σλ)² / Σλ² of their covariance.

    The participation ratio: 1 if they lie on a line, D if all D directions have equal
    shares. Latents that have collapsed keep a healthy usage of codes, but not this.

    Args:
        latents: [..., D]; they get no gradient.

    Returns:
        Scalar, 1 … D; 0 for latents that are all the same.
    """
    # [..., D] → [N, D]
    flat = latents.reshape(-1, latents.shape[-1]).astype(jnp.float32)
    centered = lax.stop_gradient(flat - flat.mean(0))
    covariance = jnp.einsum("nd,ne->de", centered, centered)  # [D, D]
    squares = jnp.sum(jnp.square(covariance))  # Σλ²; the trace is Σλ
    return jnp.square(jnp.trace(covariance)) / jnp.maximum(squares, 1e-30)


def effective_rank_flops(latents: tuple[int, ...]) -> float:
    """FLOPs of `effective_rank` for latents [..., D] of a shape: no work of a model."""
    return 2.0 * math.prod(latents) * latents[-1]


def revival_loss(
    latents: jax.Array, codebook: jax.Array, counts: jax.Array
) -> jax.Array:
    """Pull each code that no latent chose to the latent nearest to it.

    A code that is never chosen has no gradient and stays dead. Moved into the cloud of
    latents it wins some of them, after which this term leaves it alone.

    Args:
        latents: [N, E]; they get no gradient.
        codebook: [V, E].
        counts: [V], how many of these latents chose each code.

    Returns:
        Scalar: squared distance, mean over codes and channels, 0 for codes in use.
    """
    latents = lax.stop_gradient(latents.astype(jnp.float32))
    # The search the other way round: codes look for latents.
    target = nearest(codebook[None, :, None], latents[None])[0, :, 0]  # [V]
    distance = jnp.square(codebook - latents[target])
    return jnp.mean(jnp.where((counts == 0)[:, None], distance, 0))
