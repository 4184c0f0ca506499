"""What a config's `evaluation` group may hold."""

import dataclasses

from unitoken_jax.evaluate.classes import ClassTestConfig
from unitoken_jax.evaluate.evaluator import HeldOutConfig
from unitoken_jax.evaluate.features import FeaturesConfig
from unitoken_jax.evaluate.generation import GenerationTestConfig
from unitoken_jax.evaluate.memorization import MemorizationConfig
from unitoken_jax.evaluate.perception import PerceptionConfig
from unitoken_jax.evaluate.reconstruction import ReconstructionConfig
from unitoken_jax.evaluate.retrieval import RetrievalConfig
from unitoken_jax.evaluate.understanding import UnderstandingConfig
from unitoken_jax.evaluate.zero_shot import ZeroShotConfig


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(HeldOutConfig):
    """Which evaluators run, on how much; None leaves one out.

    Attributes:
        reconstruction: What the tokenizer keeps.
        retrieval: Whether pictures and captions find each other.
        zero_shot: Whether pictures are known by the names of their classes.
        understanding: Whether questions are answered.
        generation: Whether drawings follow their prompts.
        classes: Whether a class-conditional generator knows its classes.
        perception: How reconstructions and drawings look to networks with published
            weights.
        features: Whether a UniToken's image tower tells pictures apart.
        memorization: Whether pictures that were learnt by heart come back.
    """

    reconstruction: ReconstructionConfig | None = dataclasses.field(
        default_factory=ReconstructionConfig
    )
    retrieval: RetrievalConfig | None = dataclasses.field(
        default_factory=RetrievalConfig
    )
    zero_shot: ZeroShotConfig | None = dataclasses.field(default_factory=ZeroShotConfig)
    understanding: UnderstandingConfig | None = dataclasses.field(
        default_factory=UnderstandingConfig
    )
    generation: GenerationTestConfig | None = dataclasses.field(
        default_factory=GenerationTestConfig
    )
    classes: ClassTestConfig | None = dataclasses.field(default_factory=ClassTestConfig)
    perception: PerceptionConfig | None = dataclasses.field(
        default_factory=PerceptionConfig
    )
    features: FeaturesConfig | None = None
    memorization: MemorizationConfig | None = None
