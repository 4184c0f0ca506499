"""The `generation` group of a config: which model draws and answers, and how."""

import dataclasses
from typing import Literal

from unitoken_jax.generate.sampling import SamplingParams
from unitoken_jax.parallel.mesh import MeshConfig

Unconditional = Literal["prompt_dropped", "released"]
"""What the unconditional stream of a UniToken has seen before the image begins.

- `prompt_dropped`: BOS, end of turn, BOI: what training shows when it drops a prompt;
- `released`: BOI alone, at position 0: what UniToken's published sampler feeds.
"""


@dataclasses.dataclass(frozen=True)
class GenerationConfig(SamplingParams):
    """How a trained model draws and answers; drawing as `SamplingParams` says.

    Attributes:
        model: The training stage that draws and answers; "" is the last one whose model
            has a sampler.
        tokenizer: The training stage of the image tokenizer; "" is the one whose codes
            the model was trained on.
        unconditional: The context that guidance leads away from, see `Unconditional`.
        lead: Token ids between the prompt's turn and the image.
        answer_limit: Longest answer in tokens.
        batch: At most how many images or questions at once.
        length_multiple: Prompts are padded to a multiple of this.
        mesh: How the devices share the work; by default each has whole parameters and
            its part of a batch.
    """

    model: str = ""
    tokenizer: str = ""
    unconditional: Unconditional = "prompt_dropped"
    lead: tuple[int, ...] = ()
    answer_limit: int = 32
    batch: int = 16
    length_multiple: int = 64
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.lead, default=0) < 0:
            raise ValueError(f"lead holds ids of tokens, found {self.lead}")
        if min(self.answer_limit, self.batch, self.length_multiple) < 1:
            raise ValueError(
                "answer_limit, batch and length_multiple must be at least 1"
            )

    @property
    def sampling(self) -> SamplingParams:
        """The numbers of sampling alone."""
        fields = dataclasses.fields(SamplingParams)
        return SamplingParams(
            **{field.name: getattr(self, field.name) for field in fields}
        )
