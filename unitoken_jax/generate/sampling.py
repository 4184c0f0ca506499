"""How the next code or token is drawn from logits: guidance, top-k, top-p, temperature.

The order of sampling is that of `ops.sampling`. The guided and the unguided stream
stand on the batch axis one after the other and go on with the same tokens.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from unitoken_jax.ops import sampling

_GREATEST = 1e6


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """Numbers of sampling, checked when they are made.

    It is an argument of compiled functions: another guidance, top-p or temperature
    compiles nothing again, unless it turns guidance or top-p on or off.

    Attributes:
        guidance: Scale of classifier-free guidance; 1 is none and runs no second
            stream.
        guidance_interval: Of a LlamaGen: after how many tokens behind the first
            guidance ends, as `cfg_interval` counts; −1 is never.
        top_k: How many codes to draw from, 0 for all.
        top_p: Probability mass to draw from; 1 is all.
        temperature: 0 takes the most likely code.
    """

    guidance: float = 3.0
    guidance_interval: int = -1
    top_k: int = 0
    top_p: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], found {self.top_p}")
        # Beyond these, float32 logits overflow and one code is drawn everywhere.
        if not abs(self.guidance) <= _GREATEST:
            raise ValueError(
                f"guidance must be a number of at most {_GREATEST:g}, found "
                f"{self.guidance}"
            )
        if self.temperature != 0 and not 1 / _GREATEST <= self.temperature <= _GREATEST:
            raise ValueError(
                f"temperature must be 0, or lie between {1 / _GREATEST:g} and "
                f"{_GREATEST:g}, found {self.temperature}"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, found {self.top_k}")
        if self.guidance_interval < -1:
            raise ValueError(
                f"guidance_interval must be −1 or more, found {self.guidance_interval}"
            )

    @functools.cached_property
    def is_guided(self) -> bool:
        """Whether there is a second stream; known while a function is compiled."""
        return self.guidance != 1

    @functools.cached_property
    def is_truncated(self) -> bool:
        """Whether top-p leaves anything out; known while a function is compiled."""
        return self.top_p != 1

    def to_streams(self, tokens: jax.Array) -> jax.Array:
        """Give [B, …] to both streams, [2B, …]; without guidance there is but one."""
        return jnp.concatenate([tokens, tokens]) if self.is_guided else tokens

    def guides(self, place: jax.Array | int) -> jax.Array:
        """Say whether guidance holds for the token at a place, counted from 0.

        The published `cfg_interval` counts the steps after the first token, which is
        always guided.
        """
        place = jnp.asarray(place)
        if self.guidance_interval < 0:
            return jnp.ones_like(place, bool)
        return place - 1 <= self.guidance_interval

    def next_token(
        self,
        keys: jax.Array,
        logits: jax.Array,
        *,
        allowed: jax.Array | None = None,
        place: jax.Array | int | None = None,
    ) -> jax.Array:
        """Draw the next token or code of every image.

        Args:
            keys: Typed PRNG keys [B].
            logits: Float32 [B, V], or [2B, V] with the unguided stream last.
            allowed: Which may be drawn, bool [V]; None for all.
            place: Of the token, for `guidance_interval`; None guides always.

        Returns:
            int32 [B]; see `to_streams`.
        """
        if self.is_guided:
            given, free = jnp.split(logits, 2)  # [2B, V] → [B, V] each
            logits = sampling.guide(given, free, self.guidance)
            if place is not None:
                logits = jnp.where(self.guides(place), logits, given)
        if allowed is None:
            allowed = jnp.ones(logits.shape[-1], bool)
        return sampling.next_token(
            keys,
            logits,
            allowed,
            top_k=self.top_k,
            top_p=self.top_p if self.is_truncated else None,
            temperature=self.temperature,
        )

    def tree_flatten(self) -> tuple[Sequence[object], tuple[object, ...]]:
        """Divide it into what is traced and what is known at compile time."""
        known = {
            "guidance_interval": self.guidance_interval,
            "top_k": self.top_k,
            "is_guided": self.is_guided,
            "is_truncated": self.is_truncated,
        }
        return (self.guidance, self.top_p, self.temperature), tuple(known.items())

    @classmethod
    def tree_unflatten(
        cls, known: tuple[tuple[str, object], ...], traced: Sequence[object]
    ) -> "SamplingParams":
        """Put it together again; tracers are not checked."""
        made = object.__new__(cls)
        names = ("guidance", "top_p", "temperature")
        made.__dict__.update(zip(names, traced, strict=True))
        made.__dict__.update(known)
        return made


def image_keys(seeds: jax.Array) -> jax.Array:
    """Return a typed PRNG key for each seed, uint32 [B]."""
    return jax.vmap(jax.random.key)(seeds)


def fold(keys: jax.Array, step: jax.Array | int) -> jax.Array:
    """Return the keys [B] of one step of drawing."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, step)
