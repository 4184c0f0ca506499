"""Names and shapes of the published files, written down apart from our tables.

Transcribed from what the published code makes: UniToken, UniTok with its LLM and
LlamaGen, and Chameleon's VQGAN. Braces hold alternatives or a range; `:` in front of
a name stands for its weight and its bias.
"""

import re

import numpy as np
import pytest

from unitoken_jax.convert.formats import format_of, network_of
from unitoken_jax.convert.table import check_source, expected_shapes, plan, specs_of
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.models.decoder import DecoderConfig
from unitoken_jax.models.llamagen import published
from unitoken_jax.models.unitok import UniTokConfig
from unitoken_jax.models.unitok_mllm import UniTokMllmConfig
from unitoken_jax.models.unitoken import UniTokenConfig
from unitoken_jax.models.vitamin import ViTaminClipConfig
from unitoken_jax.models.vqgan import VQGANConfig


def expand(pattern):
    found = re.search(r"\{([^}]*)\}", pattern)
    if not found:
        return [pattern]
    if ".." in found[1]:
        first, last = map(int, found[1].split(".."))
        choices = range(first, last + 1)
    else:
        choices = found[1].split(",")
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return [name for choice in choices for name in expand(f"{head}{choice}{tail}")]


def keys(rows):
    """Pattern → shape, as name → shape; a bias has the first axis of its weight."""
    names = {}
    for pattern, shape in rows:
        for name in expand(pattern.removeprefix(":")):
            if pattern.startswith(":"):
                names[f"{name}.weight"], names[f"{name}.bias"] = shape, shape[:1]
            else:
                names[name] = shape
    return names


def llama(layers, vocabulary):
    """Llama's names at the width of 7B."""
    layer = f"model.layers.{{0..{layers - 1}}}"
    return [
        ("{model.embed_tokens,lm_head}.weight", (vocabulary, 4096)),
        (f"{layer}.self_attn.{{q,k,v,o}}_proj.weight", (4096, 4096)),
        (f"{layer}.mlp.{{gate,up}}_proj.weight", (11008, 4096)),
        (f"{layer}.mlp.down_proj.weight", (4096, 11008)),
        (f"{layer}.{{input,post_attention}}_layernorm.weight", (4096,)),
        ("model.norm.weight", (4096,)),
    ]


CHAMELEON = [
    *llama(32, 65536),
    ("model.layers.{0..31}.self_attn.{q,k}_norm.{weight,bias}", (1, 128)),
]
UNITOKEN = [
    *CHAMELEON,
    (":adapter.0", (4096, 1152)),
    (":adapter.2", (4096, 4096)),
    (":vit.embeddings.patch_embedding", (1152, 3, 14, 14)),
    ("vit.embeddings.position_embedding.weight", (729, 1152)),
    (":vit.encoder.layers.{0..26}.self_attn.{q,k,v,out}_proj", (1152, 1152)),
    (":vit.encoder.layers.{0..26}.layer_norm{1,2}", (1152,)),
    (":vit.encoder.layers.{0..26}.mlp.fc1", (4304, 1152)),
    (":vit.encoder.layers.{0..26}.mlp.fc2", (1152, 4304)),
    (":vit.{post_layernorm,head.layernorm}", (1152,)),
    ("vit.head.probe", (1, 1, 1152)),
    ("vit.head.attention.in_proj_weight", (3456, 1152)),
    ("vit.head.attention.in_proj_bias", (3456,)),
    (":vit.head.attention.out_proj", (1152, 1152)),
    (":vit.head.mlp.fc1", (4304, 1152)),
    (":vit.head.mlp.fc2", (1152, 4304)),
]


def vqgan():
    """Levels of 128, 128, 256, 256 and 512 channels."""
    widths, rows = (128, 128, 256, 256, 512), []

    def block(name, before, width):
        rows.append((f":{name}.norm1", (before,)))
        rows.append((f":{name}.norm2", (width,)))
        rows.append((f":{name}.conv1", (width, before, 3, 3)))
        rows.append((f":{name}.conv2", (width, width, 3, 3)))
        if before != width:
            rows.append((f":{name}.nin_shortcut", (width, before, 1, 1)))

    before = 128
    for level, width in enumerate(widths):
        for number in range(2):
            block(f"encoder.down.{level}.block.{number}", before, width)
            before = width
        if level < 4:
            name = f":encoder.down.{level}.downsample.conv"
            rows.append((name, (width, width, 3, 3)))
    for level in (4, 3, 2, 1, 0):
        width = widths[level]
        for number in range(3):
            block(f"decoder.up.{level}.block.{number}", before, width)
            before = width
        if level:
            rows.append((f":decoder.up.{level}.upsample.conv", (width, width, 3, 3)))
    for half in ("encoder", "decoder"):
        block(f"{half}.mid.block_1", 512, 512)
        block(f"{half}.mid.block_2", 512, 512)
    return [
        *rows,
        (":{encoder,decoder}.mid.attn_1.norm", (512,)),
        (":{encoder,decoder}.mid.attn_1.{q,k,v,proj_out}", (512, 512, 1, 1)),
        (":encoder.conv_in", (128, 3, 3, 3)),
        (":encoder.norm_out", (512,)),
        (":encoder.conv_out", (256, 512, 3, 3)),
        (":decoder.conv_in", (512, 256, 3, 3)),
        (":decoder.norm_out", (128,)),
        (":decoder.conv_out", (3, 128, 3, 3)),
        (":{quant,post_quant}_conv", (256, 256, 1, 1)),
        ("quantize.embedding.weight", (8192, 256)),
    ]


WIDEN = [
    (":norm{1,3}", (64,)),
    (":{norm2,mlp.norm}", (1024,)),
    ("attn.{q_bias,v_bias,zero_k_bias}", (1024,)),
    ("attn.qkv.weight", (3072, 64)),
    (":attn.proj", (1024, 1024)),
    (":proj", (1024, 64)),
    (":mlp.{w0,w1}", (2048, 1024)),
    (":mlp.w2", (1024, 2048)),
]


def under(prefix, rows):
    marked = (
        (":" if pattern.startswith(":") else "", pattern.removeprefix(":"), shape)
        for pattern, shape in rows
    )
    return [(f"{mark}{prefix}{pattern}", shape) for mark, pattern, shape in marked]


STEM = "encoder.patch_embed.backbone"
BLOCKS = "{encoder,decoder}.blocks.{0..30}"
TEXT = "text_encoder.transformer.resblocks.{0..11}"
CODEBOOKS = [
    ("quantizer.codebooks.{0..7}.codebook.weight", (4096, 8)),
    ("quantizer.codebooks.{0..7}.vocab_usage", (4096,)),
]
UNITOK = [
    ("logit_scale", ()),
    ("encoder.pos_embed", (1, 1, 1024)),
    (f":{STEM}.stem.conv1", (160, 3, 3, 3)),
    (f":{STEM}.stem.norm1", (160,)),
    (f":{STEM}.stem.conv2", (160, 160, 3, 3)),
    (f":{STEM}.stages.0.{{0,1}}.pre_norm", (160,)),
    (f":{STEM}.stages.0.{{0,1}}.conv1_1x1", (640, 160, 1, 1)),
    (f":{STEM}.stages.0.{{0,1}}.conv2_kxk", (640, 1, 3, 3)),
    (f":{STEM}.stages.0.{{0,1}}.conv3_1x1", (160, 640, 1, 1)),
    (f":{STEM}.stages.1.0.shortcut.expand", (320, 160, 1, 1)),
    (f":{STEM}.stages.1.0.pre_norm", (160,)),
    (f":{STEM}.stages.1.0.conv1_1x1", (1280, 160, 1, 1)),
    (f":{STEM}.stages.1.{{1..3}}.pre_norm", (320,)),
    (f":{STEM}.stages.1.{{1..3}}.conv1_1x1", (1280, 320, 1, 1)),
    (f":{STEM}.stages.1.{{0..3}}.conv2_kxk", (1280, 1, 3, 3)),
    (f":{STEM}.stages.1.{{0..3}}.conv3_1x1", (320, 1280, 1, 1)),
    (f":{STEM}.pool.proj", (1024, 320, 3, 3)),
    (f":{STEM}.pool.norm", (320,)),
    (f":{BLOCKS}.{{norm1,norm2,mlp.norm}}", (1024,)),
    (f":{BLOCKS}.attn.qkv", (3072, 1024)),
    (f":{BLOCKS}.attn.proj", (1024, 1024)),
    (f":{BLOCKS}.mlp.{{w0,w1}}", (2048, 1024)),
    (f":{BLOCKS}.mlp.w2", (1024, 2048)),
    (":{encoder,decoder}.norm", (1024,)),
    (":quant_proj.norm{1,3}", (1024,)),
    (":quant_proj.{norm2,mlp.norm}", (64,)),
    ("quant_proj.attn.{q_bias,v_bias,zero_k_bias}", (1024,)),
    ("quant_proj.attn.qkv.weight", (3072, 1024)),
    (":quant_proj.attn.proj", (64, 64)),
    (":quant_proj.proj", (64, 1024)),
    (":quant_proj.mlp.{w0,w1}", (128, 64)),
    (":quant_proj.mlp.w2", (64, 128)),
    *CODEBOOKS,
    *under("post_quant_proj.", WIDEN),
    (":decoder.up_conv1.conv", (320, 1024, 3, 3)),
    (":decoder.up_conv2.0.shortcut.conv", (320, 320, 3, 3)),
    (":decoder.up_conv2.0.up.conv", (1280, 1280, 3, 3)),
    (":decoder.up_conv2.{0..3}.pre_norm", (320,)),
    (":decoder.up_conv2.{0..3}.conv1_1x1", (1280, 320, 1, 1)),
    (":decoder.up_conv2.{0..3}.conv2_kxk", (1280, 1, 3, 3)),
    (":decoder.up_conv2.{0..3}.conv3_1x1", (320, 1280, 1, 1)),
    (":decoder.up_conv3.0.shortcut.conv", (160, 320, 3, 3)),
    (":decoder.up_conv3.0.up.conv", (640, 640, 3, 3)),
    (":decoder.up_conv3.0.pre_norm", (320,)),
    (":decoder.up_conv3.1.pre_norm", (160,)),
    (":decoder.up_conv3.0.conv1_1x1", (640, 320, 1, 1)),
    (":decoder.up_conv3.1.conv1_1x1", (640, 160, 1, 1)),
    (":decoder.up_conv3.{0,1}.conv2_kxk", (640, 1, 3, 3)),
    (":decoder.up_conv3.{0,1}.conv3_1x1", (160, 640, 1, 1)),
    (":decoder.up_conv4.conv1.conv", (160, 160, 3, 3)),
    (":decoder.up_conv4.norm1", (160,)),
    (":decoder.up_conv4.conv2", (3, 160, 3, 3)),
    ("text_encoder.text_projection", (768, 768)),
    ("text_encoder.positional_embedding", (77, 768)),
    ("text_encoder.token_embedding.weight", (49408, 768)),
    (f":{TEXT}.ln_{{1,2}}", (768,)),
    (f"{TEXT}.attn.in_proj_weight", (2304, 768)),
    (f"{TEXT}.attn.in_proj_bias", (2304,)),
    (f":{TEXT}.attn.out_proj", (768, 768)),
    (f":{TEXT}.mlp.c_fc", (3072, 768)),
    (f":{TEXT}.mlp.c_proj", (768, 3072)),
    (":text_encoder.ln_final", (768,)),
    (":fc_norm", (1024,)),
    (":projection", (768, 1024)),
]
TAKEN = ("encoder.patch", "encoder.blocks", "text_encoder.")
VITAMIN_CLIP = {
    name.replace("text_encoder.", "text.").replace("encoder.", "visual.trunk."): shape
    for name, shape in keys(UNITOK).items()
    if name.startswith(TAKEN)
}
# What an open_clip 3.3.0 of ViTamin-L-256 has beside.
VITAMIN_CLIP_LEFT = {
    "logit_scale": (),
    "visual.trunk.pos_embed": (1, 256, 1024),
    "visual.trunk.fc_norm.weight": (1024,),
    "visual.trunk.fc_norm.bias": (1024,),
    "visual.head.proj.weight": (768, 1024),
}
HEAD = "ar_head.layers.{0..2}"
MLLM = [
    *llama(32, 32000),
    *under("model.multi_embedder.", CODEBOOKS),
    *under("model.multi_embedder.attn_projection.", WIDEN),
    (":model.multi_embedder.mm_projector.0", (1024,)),
    (":model.multi_embedder.mm_projector.1", (4096, 1024)),
    (":model.multi_embedder.mm_projector.3", (4096, 4096)),
    (":ar_head.linear_head", (4096, 4096)),
    (f"{HEAD}.self_attn.{{q,k,v,o}}_proj.weight", (4096, 4096)),
    (f"{HEAD}.mlp.{{gate,up}}_proj.weight", (11008, 4096)),
    (f"{HEAD}.mlp.down_proj.weight", (4096, 11008)),
    (f"{HEAD}.{{input,post_attention}}_layernorm.weight", (4096,)),
    ("ar_head.norm.weight", (4096,)),
    ("ar_head.codebooks.{0..6}.weight", (4096, 4096)),
]
LLAMAGEN = [
    ("cls_embedding.embedding_table.weight", (1000, 1536)),
    ("tok_embeddings.codebooks.{0..7}.weight", (4096, 1536)),
    ("output.codebooks.{0..6}.weight", (4096, 1536)),
    ("{norm,output.norm}.weight", (1536,)),
    (":output.linear_head", (4096, 1536)),
    *(
        (f"{layers}.{name}.weight", shape)
        for layers in ("layers.{0..47}", "output.layers.{0..3}")
        for name, shape in (
            ("attention.wqkv", (4608, 1536)),
            ("attention.wo", (1536, 1536)),
            ("feed_forward.{w1,w3}", (4096, 1536)),
            ("feed_forward.w2", (1536, 4096)),
            ("{attention_norm,ffn_norm}", (1536,)),
        )
    ),
]


@pytest.mark.parametrize(
    ("name", "config", "rows"),
    [
        ("unitoken", UniTokenConfig(), UNITOKEN),
        ("lumina", DecoderConfig(), CHAMELEON),
        ("vqgan", VQGANConfig(), vqgan()),
        (
            "llama-hf",
            DecoderConfig(vocab_size=32000, qk_norm=False),
            llama(32, 32000),
        ),
        ("unitok", UniTokConfig(), UNITOK),
        ("unitok-mllm", UniTokMllmConfig(), MLLM),
        ("llamagen", published("XXL"), LLAMAGEN),
        ("vitamin-clip", ViTaminClipConfig(), VITAMIN_CLIP.items()),
    ],
)
def test_the_published_names_and_shapes_exactly(name, config, rows):
    network = network_of(config)
    ours = expected_shapes(
        format_of(name).table(config), network.abstract(config), network.counts(config)
    )
    assert ours == keys(rows)


def test_a_vitamin_clip_is_taken_as_it_is_published():
    """All 710 names: those we take, and those that are left by name."""
    config = ViTaminClipConfig()
    network, table = network_of(config), format_of("vitamin-clip").table(config)
    assignments = plan(
        table, specs_of(network.abstract(config)), network.counts(config)
    )
    shapes = VITAMIN_CLIP | VITAMIN_CLIP_LEFT
    assert len(shapes) == 710
    blank = np.zeros((), np.float32)
    source = {key: np.broadcast_to(blank, shape) for key, shape in shapes.items()}
    check_source(table, assignments, source)
    with pytest.raises(WeightsError, match=r"not of this format: visual\.trunk\.norm"):
        check_source(table, assignments, source | {"visual.trunk.norm.weight": blank})
