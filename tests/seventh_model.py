"""A seventh model, whole in this file: a table of the codes of each class.

Every place of an image has, for every class, a distribution over codes of its own; it
is the best that a model without any dependence between places can do. One line in
`registry.KINDS` makes it known.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from data_pipelines.classes import class_names
from data_pipelines.prompts import ClassPrompts
from unitoken_jax.config import Count
from unitoken_jax.convert.fields import Values, whole, written
from unitoken_jax.convert.formats import Format
from unitoken_jax.convert.layouts import SAME
from unitoken_jax.convert.networks import Network
from unitoken_jax.convert.table import Rule
from unitoken_jax.generate.sampler import Sampler, Trained
from unitoken_jax.generate.sampling import SamplingParams
from unitoken_jax.layers.parameter import parameter
from unitoken_jax.models.system import DataNeeds, System

KIND = "code_table"


@dataclasses.dataclass(frozen=True)
class CodeTableConfig:
    """Sizes of the table.

    Attributes:
        classes: how many classes there are.
        tokens: tokens of an image.
        codes: how many codes there are.
    """

    classes: Count = 2
    tokens: Count = 4
    codes: Count = 8


class CodeTable(nn.Module):
    """Logits of the codes of a class; parameter `table` [classes, tokens, codes]."""

    config: CodeTableConfig

    @nn.compact
    def __call__(self, label: jax.Array) -> jax.Array:
        """Return logits [B, L, V] of classes, int32 [B]."""
        config = self.config
        axes, shape = (None, "position", "code"), dataclasses.astuple(config)
        return parameter(self, "table", nn.initializers.zeros, axes, shape)[label]


def loss(
    module: CodeTable,
    params: Mapping[str, object],
    batch: Mapping[str, jax.Array],
    rng: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the mean cross-entropy of `codes` [B, L, 1] given `label` [B]."""
    del rng
    likelihood = log_likelihood(module, params, batch["label"], batch["codes"][..., 0])
    value = -likelihood.mean() / module.config.tokens
    return value, {"loss": value}


def log_likelihood(
    module: CodeTable,
    params: Mapping[str, object],
    label: jax.Array | np.ndarray,
    codes: jax.Array | np.ndarray,
) -> jax.Array:
    """Return what codes [B, L] are worth given classes [B], in nats, [B]."""
    logits = jax.nn.log_softmax(module.apply({"params": params}, label))
    return jnp.take_along_axis(logits, codes[..., None], axis=-1).sum((1, 2))


@dataclasses.dataclass(frozen=True)
class CodeTableSampler(Sampler):
    """Draws every place of an image by itself."""

    model: CodeTable
    prompts: ClassPrompts

    @classmethod
    def build_prompts(
        cls, model: Trained, tokenizer: Trained, data_dir: Path
    ) -> ClassPrompts:
        """Return what finds the classes of a data set."""
        return ClassPrompts(
            class_names(data_dir),
            model.system.config.classes,
            model.data,
            tokenizer.system.data.pixels_per_code,
        )

    def check(self, sampling: SamplingParams) -> None:
        """Refuse nothing."""

    def context_length(self, request: np.ndarray) -> int:
        """Return 1: a class is one token."""
        return len(request)

    def draw_codes(
        self,
        requests: Sequence[np.ndarray],
        seeds: np.ndarray,
        sampling: SamplingParams,
    ) -> jax.Array:
        """Draw codes [B, h, w] of classes [1] each."""
        logits = self.model.apply({"params": self.params}, np.concatenate(requests))
        keys = jax.vmap(jax.random.key)(seeds)
        codes = jax.vmap(jax.random.categorical)(keys, logits / sampling.temperature)
        return codes.reshape(len(requests), *self.prompts.grid)  # [B, L] → [B, h, w]

    def score_codes(
        self, requests: Sequence[np.ndarray], codes: np.ndarray
    ) -> jax.Array:
        """Return log-likelihoods [B] of codes [B, h, w]."""
        flat = codes.reshape(len(codes), -1)  # [B, h, w] → [B, L]
        return log_likelihood(self.model, self.params, np.concatenate(requests), flat)


_FIELDS = tuple(field.name for field in dataclasses.fields(CodeTableConfig))


def _read_config(values: Values) -> CodeTableConfig:
    given = {name: whole(values, name, 0, least=1) for name in _FIELDS}
    return CodeTableConfig(**given)


FORMAT = Format(
    "code-table",
    "The files of this test",
    ("table.of.codes",),
    (
        Network(
            KIND,
            CodeTableConfig,
            CodeTable,
            lambda module: module(jnp.zeros((1,), jnp.int32)),
            lambda config: {},
        ),
    ),
    (CodeTableConfig(),),
    lambda config: [Rule("table.of.codes", "table", SAME)],
    {
        CodeTableConfig: {
            n.name: written(n.name) for n in dataclasses.fields(CodeTableConfig)
        }
    },
    _read_config,
    lambda config, source: dataclasses.asdict(config),
)


def system(config: CodeTableConfig) -> System:
    """Return what the rest of the program knows of it."""
    module = CodeTable(config)
    return System(
        config,
        module,
        lambda *arguments: loss(module, *arguments),
        lambda: {"label": jnp.zeros((1,), jnp.int32)},
        DataNeeds(("classes",)),
        sampler=f"{__name__}:CodeTableSampler",
        evaluators=("unitoken_jax.evaluate.classes:Classes",),
        formats=(f"{__name__}:FORMAT",),
    )
