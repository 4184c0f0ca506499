"""The formats of `--from` and `--to`: table, configuration and files of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unitoken_jax.config import nearest
from unitoken_jax.convert import (
    chameleon,
    clip_text,
    dinov2,
    inception,
    llamagen,
    lpips,
    meta,
    siglip,
    stlpips,
    unitok,
    unitok_mllm,
    unitoken,
    vitamin_clip,
    vqgan,
)
from unitoken_jax.convert.configs.decoder import (
    read_chameleon,
    read_llama,
    read_meta,
    write_chameleon,
    write_llama,
    write_lumina,
    write_meta,
)
from unitoken_jax.convert.configs.fields import Values
from unitoken_jax.convert.configs.llamagen import read_llamagen, write_llamagen
from unitoken_jax.convert.configs.perceptual import (
    read_dinov2,
    read_inception,
    read_lpips,
    read_stlpips,
    write_dinov2,
    write_inception,
    write_lpips,
    write_stlpips,
)
from unitoken_jax.convert.configs.siglip import read_siglip, write_siglip
from unitoken_jax.convert.configs.unitok import (
    read_clip_text,
    read_unitok,
    write_clip_text,
    write_unitok,
)
from unitoken_jax.convert.configs.unitok_mllm import (
    read_unitok_mllm,
    write_unitok_mllm,
)
from unitoken_jax.convert.configs.unitoken import read_unitoken, write_unitoken
from unitoken_jax.convert.configs.vitamin_clip import (
    read_vitamin_clip,
    write_vitamin_clip,
)
from unitoken_jax.convert.configs.vqgan import read_vqgan, write_vqgan
from unitoken_jax.convert.sinks import Read, write_weights
from unitoken_jax.convert.sources import Source, open_source
from unitoken_jax.convert.table import Spec, Table, WeightsError
from unitoken_jax.models.chameleon import ChameleonConfig
from unitoken_jax.models.clip_text import ClipTextConfig
from unitoken_jax.models.dinov2 import Dinov2Config
from unitoken_jax.models.inception import InceptionConfig
from unitoken_jax.models.llamagen import LlamaGenConfig
from unitoken_jax.models.lpips import LpipsConfig
from unitoken_jax.models.siglip import SiglipConfig, SiglipVisionConfig
from unitoken_jax.models.stlpips import StLpipsConfig
from unitoken_jax.models.unitok import UniTokConfig
from unitoken_jax.models.unitok_mllm import UniTokMllmConfig
from unitoken_jax.models.unitoken import UniTokenConfig
from unitoken_jax.models.vitamin_clip import ViTaminClipConfig
from unitoken_jax.models.vqgan import VQGANConfig

Write = Callable[[Path, Mapping[str, Spec], Read, Values], None]
JAX = "jax"
_QK_NORM = (
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.q_norm.weight",
)


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
        refine: (configuration read, tensors) → configuration, for what the source does
            not say but its tensors show.
        prefixes: what may stand before every name of a larger file, of which the rest
            is then left out.
        open: path → tensors.
        write: (path, specs, tensors, what to say) → files.
    """

    title: str
    marks: tuple[str, ...]
    published: tuple[Any, ...]
    table: Callable[[Any], Table]
    read_config: Callable[[Values], Any]
    write_config: Callable[[Any, Values], Values]
    refine: Callable[[Any, Source], Any] = lambda config, source: config
    prefixes: tuple[str, ...] = ()
    open: Callable[[Path], Source] = open_source
    write: Write = write_weights

    @property
    def holds(self) -> tuple[type, ...]:
        """Classes of the configurations it can hold."""
        return tuple(type(config) for config in self.published)


FORMATS: dict[str, Format] = {
    "unitoken": Format(
        "UniToken (SxJyJay/UniToken), Hugging Face folder",
        ("adapter.0.weight", *_QK_NORM),
        (UniTokenConfig(),),
        unitoken.table,
        read_unitoken,
        write_unitoken,
    ),
    "lumina": Format(
        "Lumina-mGPT (Alpha-VLLM), Hugging Face folder",
        _QK_NORM,
        (ChameleonConfig(),),
        chameleon.table,
        read_chameleon,
        write_lumina,
    ),
    "chameleon-hf": Format(
        "Chameleon in transformers (facebook/chameleon-7b)",
        _QK_NORM,
        (ChameleonConfig(),),
        chameleon.table_hf,
        read_chameleon,
        write_chameleon,
    ),
    "chameleon-meta": Format(
        "Chameleon as Meta ships it: consolidated*.pth beside params.json",
        ("tok_embeddings.weight", "layers.0.attention.wq.weight"),
        (ChameleonConfig(),),
        chameleon.table_meta,
        read_meta,
        write_meta,
        open=meta.open_shards,
        write=meta.write_shards,
    ),
    "siglip-hf": Format(
        "SigLIP in transformers (google/siglip-so400m-patch14-384)",
        ("vision_model.post_layernorm.weight",),
        (SiglipVisionConfig(), SiglipConfig()),
        siglip.table,
        read_siglip,
        write_siglip,
        prefixes=("vision_model.", "vit."),
    ),
    "vqgan": Format(
        "Chameleon's image tokenizer: vqgan.ckpt beside vqgan.yaml",
        ("encoder.conv_in.weight", "quantize.embedding.weight"),
        (VQGANConfig(),),
        vqgan.table,
        read_vqgan,
        write_vqgan,
        write=partial(write_weights, wrap=("state_dict",)),
    ),
    "llama-hf": Format(
        "Llama in transformers (meta-llama/Llama-2-7b-hf)",
        ("model.layers.0.self_attn.q_proj.weight",),
        (ChameleonConfig(vocab_size=32_000, qk_norm=False),),
        chameleon.table,
        read_llama,
        write_llama,
    ),
    "unitok": Format(
        "UniTok's tokenizer (FoundationVision/unitok_tokenizer)",
        ("quant_proj.attn.qkv.weight", "post_quant_proj.attn.qkv.weight"),
        (UniTokConfig(),),
        unitok.table,
        read_unitok,
        write_unitok,
        write=partial(write_weights, wrap=("trainer", "unitok")),
    ),
    "unitok-mllm": Format(
        "UniTok's multimodal LLM (FoundationVision/unitok_mllm), Hugging Face folder",
        ("ar_head.linear_head.weight", "lm_head.weight"),
        (UniTokMllmConfig(),),
        unitok_mllm.table,
        read_unitok_mllm,
        write_unitok_mllm,
    ),
    "llamagen": Format(
        "LlamaGen over UniTok's codes (FoundationVision/UniTok)",
        ("cls_embedding.embedding_table.weight", "output.linear_head.weight"),
        (LlamaGenConfig(),),
        llamagen.table,
        read_llamagen,
        write_llamagen,
        llamagen.count_classes,
        write=partial(write_weights, wrap=("model",)),
    ),
    "clip-text": Format(
        "CLIP's text tower as open_clip and UniTok name it",
        ("text_projection", "positional_embedding"),
        (ClipTextConfig(),),
        clip_text.table,
        read_clip_text,
        write_clip_text,
        prefixes=("text_encoder.", "text."),
    ),
    "vitamin-clip": Format(
        "ViTamin CLIPs of open_clip (jienengchen/ViTamin-L-256px), to start UniTok",
        ("visual.trunk.patch_embed.backbone.stem.conv1.weight", "text.text_projection"),
        (ViTaminClipConfig(),),
        vitamin_clip.table,
        read_vitamin_clip,
        write_vitamin_clip,
        prefixes=("module.",),
    ),
    "dinov2": Format(
        "DINOv2 ViT-S/14 (dinov2_vits14_pretrain.pth)",
        ("cls_token", "mask_token", "blocks.0.ls1.gamma"),
        (Dinov2Config(),),
        dinov2.table,
        read_dinov2,
        write_dinov2,
        prefixes=("dino.",),
    ),
    "lpips": Format(
        "LPIPS with VGG16 in one file (UniTok's lpips_with_vgg.pth)",
        ("net.slice1.0.weight", "lins.0.model.1.weight"),
        (LpipsConfig(),),
        lpips.table,
        read_lpips,
        write_lpips,
        prefixes=("lpips.",),
    ),
    "stlpips": Format(
        "Shift-tolerant LPIPS with AlexNet (stlpips-pytorch, see convert.perceptual)",
        ("net.slice1.0.weight", "lin0.model.1.weight", "net.slice2.5.weight"),
        (StLpipsConfig(),),
        stlpips.table,
        read_stlpips,
        write_stlpips,
    ),
    "inception": Format(
        "Inception-v3 of the FID (pt_inception-2015-12-05-6726825d.pth)",
        ("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight", "fc.bias"),
        (InceptionConfig(),),
        inception.table,
        read_inception,
        write_inception,
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
    """Formats that a source looks like: those most of whose marks it has."""
    found = {
        name: len(kind.marks)
        for name, kind in FORMATS.items()
        if all(mark in source for mark in kind.marks)
    }
    most = max(found.values(), default=0)
    return [name for name, marks in found.items() if marks == most]
