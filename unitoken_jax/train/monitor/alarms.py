"""Warnings that name what goes wrong: a term, a codebook, a discriminator.

Watches the metrics of every step on the host. A warning is given when a fault begins
and again when it has been gone in between.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping

from unitoken_jax.config import Amount, Count

log = logging.getLogger(__name__)

_USAGE = "usage"
_RANK = "latent_rank"
_HINGE, _RAMP = "discriminator/hinge", "discriminator/ramp"
# What every step has and what follows from a term that is not finite.
_SUMS = ("loss", "grad_norm", "adaptive_weight")


@dataclasses.dataclass(frozen=True)
class AlarmConfig:
    """What is worth a warning.

    Attributes:
        usage: share of a codebook's codes in use below which it has collapsed.
        rank: directions that an image tokenizer's latents spread over below which they
            have collapsed: a plane whose shares are 0.8 and 0.2 has 1.5.
        hinge: the discriminator's hinge loss (2 where it knows nothing) below which it
            wins.
        patience: steps that such a fault must last before it is told.
    """

    usage: Amount = 0.1
    rank: Amount = 2.0
    hinge: Amount = 0.1
    patience: Count = 50

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, not {self.patience}.")


class Alarms:
    """Remembers for how long each fault has lasted."""

    def __init__(self, config: AlarmConfig) -> None:
        self._config = config
        self._lasting: dict[str, int] = {}

    def see(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of a step and warn of what begins to go wrong."""
        self._see_terms(step, metrics)
        # The mean over codebooks says nothing where each is known.
        own = [name for name in metrics if name.startswith(f"{_USAGE}/")]
        for name in own or [name for name in metrics if name == _USAGE]:
            self._see_codebook(step, name, metrics[name], metrics)
        if _RANK in metrics:
            self._see_latents(step, metrics[_RANK])
        if metrics.get(_RAMP):
            self._see_discriminator(step, metrics)

    def _see_terms(self, step: int, metrics: Mapping[str, float]) -> None:
        wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
        terms = [name for name in wrong if not name.startswith(_SUMS)]
        if self._begins("terms", bool(wrong), 1):
            named = ", ".join(f"{name} is {metrics[name]}" for name in terms or wrong)
            log.warning("step %d: %s", step, named)

    def _see_codebook(
        self, step: int, name: str, value: float, metrics: Mapping[str, float]
    ) -> None:
        number = name.removeprefix(_USAGE).removeprefix("/")
        low = value < self._config.usage
        if self._begins(name, low, self._config.patience):
            dead = metrics.get(f"dead/{number}")
            counted = "" if dead is None else f", {dead:.0f} are dead"
            log.warning(
                "step %d: %s has collapsed: %s says that %.1f %% of its codes are in "
                "use%s; raise the learning rate of the codebooks, or the weight of the "
                "revival of codes",
                *(step, f"codebook {number}" if number else "the codebook", name),
                *(100 * value, counted),
            )

    def _see_latents(self, step: int, value: float) -> None:
        low = value < self._config.rank
        if self._begins(_RANK, low, self._config.patience):
            log.warning(
                "step %d: the latents have collapsed: %s says that they spread over "
                "%.2f directions; lower the learning rate or the weight of the "
                "commitment, or start from latents that were trained without codes",
                *(step, _RANK, value),
            )

    def _see_discriminator(self, step: int, metrics: Mapping[str, float]) -> None:
        value = metrics.get(_HINGE, math.nan)
        low = value < self._config.hinge
        if self._begins(_HINGE, low, self._config.patience):
            log.warning(
                "step %d: the discriminator wins: %s is %.3g and tells the tokenizer "
                "little; lower discriminator.optimizer.learning_rate",
                *(step, _HINGE, value),
            )

    def _begins(self, fault: str, there: bool, patience: int) -> bool:
        """Say whether a fault has now lasted for `patience` steps."""
        count = self._lasting.get(fault, 0) + 1 if there else 0
        self._lasting[fault] = count
        return count == patience
