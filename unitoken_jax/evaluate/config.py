"""What a config's `evaluation` group may hold."""

import dataclasses

from unitoken_jax.evaluate.generation import GenerationTestConfig
from unitoken_jax.evaluate.reconstruction import ReconstructionConfig
from unitoken_jax.evaluate.retrieval import RetrievalConfig
from unitoken_jax.evaluate.understanding import UnderstandingConfig


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Which evaluators run, on how much; None leaves one out.

    Attributes:
        split: Held-out records.
        train_split: Records whose answers give the majority baseline.
        seed: Of the order in which held-out records are taken.
        reconstruction: What the tokenizer keeps.
        retrieval: Whether SigLIP matches pictures and captions.
        understanding: Whether questions are answered.
        generation: Whether drawings follow their prompts.
    """

    split: str = "heldout"
    train_split: str = "train"
    seed: int = 0
    reconstruction: ReconstructionConfig | None = dataclasses.field(
        default_factory=ReconstructionConfig
    )
    retrieval: RetrievalConfig | None = dataclasses.field(
        default_factory=RetrievalConfig
    )
    understanding: UnderstandingConfig | None = dataclasses.field(
        default_factory=UnderstandingConfig
    )
    generation: GenerationTestConfig | None = dataclasses.field(
        default_factory=GenerationTestConfig
    )
