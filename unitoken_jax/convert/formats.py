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
from unitoken_jax.convert.configs import decoder as decoders
from unitoken_jax.convert.configs import llamagen as llamagens
from unitoken_jax.convert.configs import perceptual as perceptuals
from unitoken_jax.convert.configs import siglip as siglips
from unitoken_jax.convert.configs import unitok as unitoks
from unitoken_jax.convert.configs import unitok_mllm as mllms
from unitoken_jax.convert.configs import unitoken as unitokens
from unitoken_jax.convert.configs import vitamin_clip as vitamin_clips
from unitoken_jax.convert.configs import vqgan as vqgans
from unitoken_jax.convert.configs.fields import Holdings, Values
from unitoken_jax.convert.sinks import Read, write_weights
from unitoken_jax.convert.sources import Source, open_source
from unitoken_jax.convert.table import Spec, Table, WeightsError
from unitoken_jax.models.clip_text import ClipTextConfig
from unitoken_jax.models.decoder import DecoderConfig
from unitoken_jax.models.llamagen import LlamaGenConfig
from unitoken_jax.models.perceptual.dinov2 import Dinov2Config
from unitoken_jax.models.perceptual.inception import InceptionConfig
from unitoken_jax.models.perceptual.lpips import LpipsConfig
from unitoken_jax.models.perceptual.stlpips import StLpipsConfig
from unitoken_jax.models.siglip import (
    SiglipConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
)
from unitoken_jax.models.unitok import UniTokConfig
from unitoken_jax.models.unitok_mllm import UniTokMllmConfig
from unitoken_jax.models.unitoken import UniTokenConfig
from unitoken_jax.models.vitamin import ViTaminClipConfig, ViTaminConfig
from unitoken_jax.models.vqgan import VQGANConfig

Write = Callable[[Path, Mapping[str, Spec], Read, Values, Mapping[str, bytes]], None]
Open = Callable[[Path, str | None], Source]
JAX = "jax"
_write_plain = partial(write_weights, beside=".json")
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
        holdings: how every field of the configurations is held, by their classes.
        read_config: what the source says of its model → configuration; with nothing
            said, the published model's.
        write_config: (configuration, what an earlier source said) → what to say.
        refine: (configuration read, tensors) → configuration, for what the source does
            not say but its tensors show.
        prefixes: what may stand before every name of a larger file, of which the rest
            is then left out.
        names_ids: whether its files list the names of the decoder's ids.
        changes: configuration → what the released code must be changed in before it
            loads the model, beside what `holdings` says.
        open: (path, chosen set of weights) → tensors.
        write: (path, specs, tensors, what to say, files beside) → files.
    """

    title: str
    marks: tuple[str, ...]
    published: tuple[Any, ...]
    table: Callable[[Any], Table]
    holdings: Holdings
    read_config: Callable[[Values], Any]
    write_config: Callable[[Any, Values], Values]
    refine: Callable[[Any, Source], Any] = lambda config, source: config
    prefixes: tuple[str, ...] = ()
    names_ids: bool = False
    changes: Callable[[Any], list[str]] = lambda config: []
    open: Open = open_source
    write: Write = _write_plain

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
        {
            UniTokenConfig: unitokens.UNITOKEN,
            DecoderConfig: decoders.LUMINA,
            SiglipVisionConfig: unitokens.VISION,
        },
        unitokens.read_unitoken,
        unitokens.write_unitoken,
        names_ids=True,
    ),
    "lumina": Format(
        "Lumina-mGPT (Alpha-VLLM), Hugging Face folder",
        _QK_NORM,
        (DecoderConfig(),),
        chameleon.table,
        {DecoderConfig: decoders.LUMINA},
        decoders.read_chameleon,
        decoders.write_lumina,
        names_ids=True,
    ),
    "chameleon-hf": Format(
        "Chameleon in transformers (facebook/chameleon-7b)",
        _QK_NORM,
        (DecoderConfig(),),
        chameleon.table_hf,
        {DecoderConfig: decoders.CHAMELEON, VQGANConfig: vqgans.VQ_CONFIG},
        decoders.read_chameleon,
        decoders.write_chameleon,
        names_ids=True,
    ),
    "chameleon-meta": Format(
        "Chameleon as Meta ships it: consolidated*.pth beside params.json",
        ("tok_embeddings.weight", "layers.0.attention.wq.weight"),
        (DecoderConfig(),),
        chameleon.table_meta,
        {DecoderConfig: decoders.META},
        decoders.read_meta,
        decoders.write_meta,
        open=meta.open_shards,
        write=meta.write_shards,
    ),
    "siglip-hf": Format(
        "SigLIP in transformers (google/siglip-so400m-patch14-384)",
        ("vision_model.post_layernorm.weight",),
        (SiglipVisionConfig(), SiglipConfig()),
        siglip.table,
        {
            SiglipVisionConfig: siglips.VISION,
            SiglipTextConfig: siglips.TEXT,
            SiglipConfig: siglips.SIGLIP,
        },
        siglips.read_siglip,
        siglips.write_siglip,
        prefixes=("vision_model.", "vit."),
    ),
    "vqgan": Format(
        "Chameleon's image tokenizer: vqgan.ckpt beside vqgan.yaml",
        ("encoder.conv_in.weight", "quantize.embedding.weight"),
        (VQGANConfig(),),
        vqgan.table,
        {VQGANConfig: vqgans.VQGAN},
        vqgans.read_vqgan,
        vqgans.write_vqgan,
        write=partial(write_weights, wrap=("state_dict",), beside=".yaml"),
    ),
    "llama-hf": Format(
        "Llama in transformers (meta-llama/Llama-2-7b-hf)",
        ("model.layers.0.self_attn.q_proj.weight",),
        (DecoderConfig(vocab_size=32_000, qk_norm=False),),
        chameleon.table,
        {DecoderConfig: decoders.LLAMA},
        decoders.read_llama,
        decoders.write_llama,
    ),
    "unitok": Format(
        "UniTok's tokenizer (FoundationVision/unitok_tokenizer)",
        ("quant_proj.attn.qkv.weight", "post_quant_proj.attn.qkv.weight"),
        (UniTokConfig(),),
        unitok.table,
        {
            UniTokConfig: unitoks.UNITOK,
            ViTaminConfig: unitoks.VITAMIN,
            ClipTextConfig: unitoks.TEXT,
        },
        unitoks.read_unitok,
        unitoks.write_unitok,
        write=partial(write_weights, wrap=("trainer", "unitok"), beside="args"),
        changes=unitoks.unreleased_vision,
    ),
    "unitok-mllm": Format(
        "UniTok's multimodal LLM (FoundationVision/unitok_mllm), Hugging Face folder",
        ("ar_head.linear_head.weight", "lm_head.weight"),
        (UniTokMllmConfig(),),
        unitok_mllm.table,
        {UniTokMllmConfig: mllms.MLLM, DecoderConfig: mllms.LLAMA},
        mllms.read_unitok_mllm,
        mllms.write_unitok_mllm,
    ),
    "llamagen": Format(
        "LlamaGen over UniTok's codes (FoundationVision/UniTok)",
        ("cls_embedding.embedding_table.weight", "output.linear_head.weight"),
        (LlamaGenConfig(),),
        llamagen.table,
        {LlamaGenConfig: llamagens.LLAMAGEN},
        llamagens.read_llamagen,
        llamagens.write_llamagen,
        llamagen.count_classes,
        write=partial(write_weights, wrap=("model",), beside="args"),
    ),
    "clip-text": Format(
        "CLIP's text tower as open_clip and UniTok name it",
        ("text_projection", "positional_embedding"),
        (ClipTextConfig(),),
        clip_text.table,
        {ClipTextConfig: unitoks.TEXT},
        unitoks.read_clip_text,
        unitoks.write_clip_text,
        prefixes=("text_encoder.", "text."),
    ),
    "vitamin-clip": Format(
        "ViTamin CLIPs of open_clip (jienengchen/ViTamin-L-256px), to start UniTok",
        ("visual.trunk.patch_embed.backbone.stem.conv1.weight", "text.text_projection"),
        (ViTaminClipConfig(),),
        vitamin_clip.table,
        {
            ViTaminClipConfig: vitamin_clips.CLIP,
            ViTaminConfig: vitamin_clips.VITAMIN,
            ClipTextConfig: vitamin_clips.TEXT,
        },
        vitamin_clips.read_vitamin_clip,
        vitamin_clips.write_vitamin_clip,
        prefixes=("module.",),
        changes=vitamin_clips.dropped_tensors,
    ),
    "dinov2": Format(
        "DINOv2 ViT-S/14 (dinov2_vits14_pretrain.pth)",
        ("cls_token", "mask_token", "blocks.0.ls1.gamma"),
        (Dinov2Config(),),
        dinov2.table,
        {Dinov2Config: perceptuals.DINOV2},
        perceptuals.read_dinov2,
        perceptuals.write_dinov2,
        prefixes=("dino.",),
    ),
    "lpips": Format(
        "LPIPS with VGG16 in one file (UniTok's lpips_with_vgg.pth)",
        ("net.slice1.0.weight", "lins.0.model.1.weight"),
        (LpipsConfig(),),
        lpips.table,
        {LpipsConfig: perceptuals.LPIPS},
        perceptuals.read_lpips,
        perceptuals.write_lpips,
        prefixes=("lpips.",),
    ),
    "stlpips": Format(
        "Shift-tolerant LPIPS with AlexNet (stlpips-pytorch, see convert.perceptual)",
        ("net.slice1.0.weight", "lin0.model.1.weight", "net.slice2.5.weight"),
        (StLpipsConfig(),),
        stlpips.table,
        {StLpipsConfig: perceptuals.STLPIPS},
        perceptuals.read_stlpips,
        perceptuals.write_stlpips,
    ),
    "inception": Format(
        "Inception-v3 of the FID (pt_inception-2015-12-05-6726825d.pth)",
        ("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight", "fc.bias"),
        (InceptionConfig(),),
        inception.table,
        {InceptionConfig: perceptuals.INCEPTION},
        perceptuals.read_inception,
        perceptuals.write_inception,
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
