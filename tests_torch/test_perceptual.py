"""Discriminator and LPIPS beside PyTorch: what a generator's gradient goes through.

The backbone is `transformers`' DINOv2; the heads and LPIPS are written with
`torch.nn.functional` from the published modules. Images have the sides of the position
table, which the two libraries would interpolate differently.
"""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from random_weights import random_weights

from unitoken_jax.convert.published import dinov2, lpips
from unitoken_jax.convert.table import export_tensors
from unitoken_jax.models.perceptual.dinov2 import Dinov2Config
from unitoken_jax.models.perceptual.discriminator import (
    SCALE,
    SHIFT,
    Discriminator,
    DiscriminatorConfig,
)
from unitoken_jax.models.perceptual.lpips import Lpips, LpipsConfig

BACKBONE = Dinov2Config(hidden=64, mlp=128, layers=3, heads=2, grid=3)
CONFIG = DiscriminatorConfig(backbone=BACKBONE, taps=(0, 1, 2))
SMALL = LpipsConfig(widths=(4, 6, 8), depths=(2, 2, 3))


def random_params(module, *inputs):
    init = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return random_weights(init["params"])


def pictures(seed, side):
    shape = (2, side, side, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def first_channels(images):
    return torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)


def last_channels(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def backbone_of(weights):
    """DINOv2 in `transformers` with weights under the published names."""
    config = transformers.Dinov2Config(
        hidden_size=BACKBONE.hidden,
        num_hidden_layers=BACKBONE.layers,
        num_attention_heads=BACKBONE.heads,
        mlp_ratio=BACKBONE.mlp // BACKBONE.hidden,
        image_size=14 * BACKBONE.grid,
        patch_size=14,
    )
    names = {
        "embeddings.cls_token": "cls_token",
        "embeddings.mask_token": "mask_token",
        "embeddings.position_embeddings": "pos_embed",
        "layernorm.weight": "norm.weight",
        "layernorm.bias": "norm.bias",
    }
    state = {name: torch.tensor(weights[key]) for name, key in names.items()}
    for leaf in ("weight", "bias"):
        patches = torch.tensor(weights[f"patch_embed.proj.{leaf}"])
        state[f"embeddings.patch_embeddings.projection.{leaf}"] = patches
    for i in range(BACKBONE.layers):
        ours, theirs = f"blocks.{i}", f"encoder.layer.{i}"
        for leaf in ("weight", "bias"):
            packed = torch.tensor(weights[f"{ours}.attn.qkv.{leaf}"]).chunk(3)
            for name, part in zip("qkv", packed, strict=True):
                state[f"{theirs}.attention.{name}_proj.{leaf}"] = part
            for name, key in {
                "attention.o_proj": "attn.proj",
                "norm1": "norm1",
                "norm2": "norm2",
                "mlp.fc1": "mlp.fc1",
                "mlp.fc2": "mlp.fc2",
            }.items():
                part = torch.tensor(weights[f"{ours}.{key}.{leaf}"])
                state[f"{theirs}.{name}.{leaf}"] = part
        for n in (1, 2):
            scale = torch.tensor(weights[f"{ours}.ls{n}.gamma"])
            state[f"{theirs}.layer_scale{n}.lambda1"] = scale
    model = transformers.Dinov2Model(config).eval()
    model.load_state_dict(state, strict=True)
    return model


def head(x, weights, i):
    """Scores [B, S] of features [B, D, S]."""

    def convolve(x, key):
        weight = weights[f"heads.{i}.{key}.weight"]
        side = weight.shape[-1] // 2
        padded = F.pad(x, (side, side), mode="circular") if side else x
        return F.conv1d(padded, weight, weights[f"heads.{i}.{key}.bias"])

    def activate(x, key):
        scale, bias = (
            weights[f"heads.{i}.{key}.{leaf}"] for leaf in ("weight", "bias")
        )
        return F.leaky_relu(F.group_norm(x, CONFIG.groups, scale, bias, 1e-6), 0.2)

    x = activate(convolve(x, "0.0"), "0.1")
    x = (activate(convolve(x, "1.fn.0"), "1.fn.1") + x) / 2**0.5
    return convolve(x, "2")[:, 0]


def test_discriminator():
    images = pictures(1, 14 * BACKBONE.grid)
    module = Discriminator(CONFIG)
    params = random_params(module, images)
    counts = dinov2.counts(CONFIG)
    heads = dinov2.heads_table(CONFIG)
    backbone = backbone_of(
        export_tensors(dinov2.table(BACKBONE), params["backbone"], counts)
    )
    weights = {
        key: torch.tensor(value, requires_grad=True)
        for key, value in export_tensors(
            heads, {"heads": params["heads"]}, counts
        ).items()
    }
    given = first_channels(images)
    scale, shift = (torch.tensor(x).reshape(1, 3, 1, 1) for x in (SCALE, SHIFT))
    states = backbone(given * scale + shift, output_hidden_states=True).hidden_states
    taps = [states[1 + tap].transpose(1, 2) for tap in CONFIG.taps]  # [B, D, 1 + S]
    theirs = torch.cat(
        [head(x[..., 1:] + x[..., :1], weights, i) for i, x in enumerate(taps)], 1
    )
    cotangent = np.random.default_rng(2).normal(size=theirs.shape).astype(np.float32)
    (theirs * torch.tensor(cotangent)).sum().backward()

    def score(params, images):
        scores = module.apply({"params": params}, images)
        return (scores * cotangent).sum(), scores

    found, scores = jax.jit(jax.grad(score, (0, 1), has_aux=True))(params, images)
    golden.assert_close(scores, theirs.detach().numpy())
    by_params, by_images = jax.device_get(found)
    ours = export_tensors(heads, {"heads": by_params["heads"]}, counts)
    expected = {k: v.grad.numpy() for k, v in weights.items() if v.grad is not None}
    ours = {key: ours[key] for key in expected}
    assert len(expected) == len(CONFIG.taps) * 10
    golden.assert_gradients(
        ours | {"images": by_images}, expected | {"images": last_channels(given.grad)}
    )


def test_lpips():
    first, second = pictures(1, 32), pictures(2, 32)
    module = Lpips(SMALL)
    params = random_params(module, first, second)
    params |= {key: abs(w) for key, w in params.items() if key.startswith("weight")}
    weights = {
        key: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for key, value in export_tensors(lpips.table(SMALL), params, {}).items()
    }
    # The norms of nearly equal features cancel: the reference needs the digits.
    one, other = (first_channels(x).double().detach() for x in (first, second))
    one.requires_grad_()
    shift = torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)
    x = (torch.cat([one, other]) - shift) / scale
    theirs = 0
    for i, depth in enumerate(SMALL.depths):
        if i:
            x = F.max_pool2d(x, 2)
        for j in range(depth):
            key = f"net.slice{i + 1}.{(i > 0) + 2 * j}"
            kernel, bias = weights[f"{key}.weight"], weights[f"{key}.bias"]
            x = F.relu(F.conv2d(x, kernel, bias, padding=1))
        unit = x / (torch.sqrt((x**2).sum(1, keepdim=True) + 1e-9) + 1e-10)
        difference = (unit[:2] - unit[2:]) ** 2
        mapped = F.conv2d(difference, weights[f"lins.{i}.model.1.weight"])
        theirs = theirs + mapped.mean((1, 2, 3))
    (theirs * torch.tensor([1.0, 2.0])).sum().backward()

    def score(params, first):
        distance = module.apply({"params": params}, first, second)
        return (distance * jnp.array([1.0, 2.0])).sum(), distance

    found, distance = jax.jit(jax.grad(score, (0, 1), has_aux=True))(params, first)
    golden.assert_close(distance, theirs.detach().numpy(), least=0.0)
    by_params, by_images = jax.device_get(found)
    ours = export_tensors(lpips.table(SMALL), by_params, {})
    expected = {key: value.grad.numpy() for key, value in weights.items()}
    golden.assert_gradients(
        ours | {"images": by_images}, expected | {"images": last_channels(one.grad)}
    )
