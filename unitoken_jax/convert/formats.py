"""The formats of `--from` and `--to`: table, configuration and files of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unitoken_jax.config import nearest
from unitoken_jax.convert import (
    chameleon,
    configs,
    llamagen,
    meta,
    siglip,
    unitoken,
    vqgan,
)
from unitoken_jax.convert.configs import Values
from unitoken_jax.convert.sinks import Read, write_weights
from unitoken_jax.convert.sources import Source, open_source
from unitoken_jax.convert.table import Spec, Table, WeightsError
from unitoken_jax.models.chameleon import ChameleonConfig
from unitoken_jax.models.llamagen import LlamaGenConfig
from unitoken_jax.models.siglip import SiglipConfig, SiglipVisionConfig
from unitoken_jax.models.unitoken import UniTokenConfig
from unitoken_jax.models.vqgan import VQGANConfig

Write = Callable[[Path, Mapping[str, Spec], Read, Values], None]
JAX = "jax"


@dataclass(frozen=True)
class Format:
    """One published layout.

    Attributes:
        title: whose files these are.
        marks: names that only such files have together.
        published: configurations of the published models.
        table: configuration → rules.
        read_config: what the source says of its model → configuration; with nothing
            said, the published model's.
        write_config: (configuration, what an earlier source said) → what to say.
        open: path → tensors.
        write: (path, specs, tensors, what to say) → files.
    """

    title: str
    marks: tuple[str, ...]
    published: tuple[Any, ...]
    table: Callable[[Any], Table]
    read_config: Callable[[Values], Any]
    write_config: Callable[[Any, Values], Values]
    open: Callable[[Path], Source] = open_source
    write: Write = write_weights

    @property
    def holds(self) -> tuple[type, ...]:
        """Classes of the configurations it can hold."""
        return tuple(type(config) for config in self.published)


FORMATS: dict[str, Format] = {
    "unitoken": Format(
        "UniToken (SxJyJay/UniToken), Hugging Face folder",
        ("adapter.0.weight", "lm_head.weight"),
        (UniTokenConfig(),),
        unitoken.table,
        configs.read_unitoken,
        configs.write_unitoken,
    ),
    "lumina": Format(
        "Lumina-mGPT (Alpha-VLLM), Hugging Face folder",
        ("model.layers.0.self_attn.q_norm.weight",),
        (ChameleonConfig(),),
        chameleon.table,
        configs.read_chameleon,
        configs.write_lumina,
    ),
    "chameleon-hf": Format(
        "Chameleon in transformers (facebook/chameleon-7b)",
        ("model.layers.0.self_attn.q_norm.weight",),
        (ChameleonConfig(),),
        chameleon.table_hf,
        configs.read_chameleon,
        configs.write_chameleon,
    ),
    "chameleon-meta": Format(
        "Chameleon as Meta ships it: consolidated*.pth beside params.json",
        ("tok_embeddings.weight", "layers.0.attention.wq.weight"),
        (ChameleonConfig(),),
        chameleon.table_meta,
        configs.read_meta,
        configs.write_meta,
        meta.open_shards,
        meta.write_shards,
    ),
    "siglip-hf": Format(
        "SigLIP in transformers (google/siglip-so400m-patch14-384)",
        ("vision_model.post_layernorm.weight",),
        (SiglipVisionConfig(), SiglipConfig()),
        siglip.table,
        configs.read_siglip,
        configs.write_siglip,
    ),
    "vqgan": Format(
        "Chameleon's image tokenizer: vqgan.ckpt beside vqgan.yaml",
        ("encoder.conv_in.weight", "quantize.embedding.weight"),
        (VQGANConfig(),),
        vqgan.table,
        configs.read_vqgan,
        configs.write_vqgan,
        write=partial(write_weights, wrap=("state_dict",)),
    ),
    "llama-hf": Format(
        "Llama in transformers (meta-llama/Llama-2-7b-hf)",
        ("model.layers.0.self_attn.q_proj.weight",),
        (ChameleonConfig(vocab_size=32_000, qk_norm=False),),
        chameleon.table,
        configs.read_llama,
        configs.write_llama,
    ),
    "llamagen": Format(
        "LlamaGen over UniTok's codes (FoundationVision/UniTok)",
        ("cls_embedding.embedding_table.weight", "output.linear_head.weight"),
        (LlamaGenConfig(),),
        llamagen.table,
        configs.read_llamagen,
        configs.write_llamagen,
        write=partial(write_weights, wrap=("model",)),
    ),
}


def format_of(name: str) -> Format:
    """The format of a name.

    Raises:
        WeightsError: an unknown name; the message has the nearest known one.
    """
    if name not in FORMATS:
        raise WeightsError(
            f"there is no format {name!r}{nearest(name, (JAX, *FORMATS))}"
        )
    return FORMATS[name]


def matching(source: Source) -> list[str]:
    """Formats whose characteristic names a source has."""
    return [
        name
        for name, kind in FORMATS.items()
        if all(mark in source for mark in kind.marks)
    ]
