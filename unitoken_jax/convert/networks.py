"""Our networks whose weights are published somewhere, and what is part of what."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from unitoken_jax.config import build, nearest, plain
from unitoken_jax.convert import (
    chameleon,
    clip_text,
    dinov2,
    inception,
    llamagen,
    lpips,
    siglip,
    stlpips,
    unitok,
    unitok_mllm,
    unitoken,
    vitamin_clip,
    vqgan,
)
from unitoken_jax.convert.table import Counts, WeightsError, flatten
from unitoken_jax.models.clip_text import ClipText, ClipTextConfig
from unitoken_jax.models.decoder import Decoder, DecoderConfig
from unitoken_jax.models.llamagen import LlamaGen, LlamaGenConfig
from unitoken_jax.models.perceptual.dinov2 import Dinov2, Dinov2Config
from unitoken_jax.models.perceptual.inception import InceptionConfig, InceptionV3
from unitoken_jax.models.perceptual.lpips import Lpips, LpipsConfig
from unitoken_jax.models.perceptual.stlpips import StLpips, StLpipsConfig
from unitoken_jax.models.siglip import (
    Siglip,
    SiglipConfig,
    SiglipVision,
    SiglipVisionConfig,
)
from unitoken_jax.models.unitok import UniTok, UniTokConfig
from unitoken_jax.models.unitok_mllm import UniTokMllm, UniTokMllmConfig
from unitoken_jax.models.unitoken import UniToken, UniTokenConfig
from unitoken_jax.models.vitamin import ViTaminClip, ViTaminClipConfig
from unitoken_jax.models.vqgan import VQGAN, VQGANConfig


@dataclass(frozen=True)
class Network:
    """One of our networks.

    Attributes:
        kind: its name in `config.json` of the `jax` format.
        config: class of its configuration.
        module: class of its module, made from the configuration.
        example: module → something its parameters all take part in.
        counts: configuration → how many of each counter of its tables.
        parts: networks within it: prefix of the paths → configuration of the part.
    """

    kind: str
    config: type
    module: Callable[[Any], nn.Module]
    example: Callable[[Any], Any]
    counts: Callable[[Any], Counts]
    parts: Callable[[Any], Mapping[str, Any]] = lambda config: {}

    def abstract(self, config: Any) -> Mapping[str, Any]:
        """Shapes of the parameters, a plain nested dict; nothing is made."""
        return _abstract(self, config)


@functools.lru_cache(maxsize=8)  # tracing a deep network takes seconds
def _abstract(network: Network, config: Any) -> Mapping[str, Any]:
    def init(key: jax.Array) -> Any:
        keys = {"params": key, "dropout": key}
        return network.module(config).init(keys, method=network.example)["params"]

    try:
        boxed = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)))
    except (ValueError, TypeError, ArithmeticError, IndexError) as fault:
        said = (str(fault).splitlines() or [type(fault).__name__])[0]
        raise WeightsError(
            f"the configuration describes no {network.kind} that can be built: {said}"
        ) from fault
    return traverse_util.unflatten_dict(flatten(boxed), sep="/")


def _run_vision(module: SiglipVision) -> Any:
    return module(jnp.zeros((1, module.config.image, module.config.image, 3)))


def _run_siglip(module: Siglip) -> Any:
    size, length = module.config.vision.image, module.config.text.length
    text = jnp.zeros((1, length), jnp.int32)
    return module(jnp.zeros((1, size, size, 3)), text)


def _run_vqgan(module: VQGAN) -> Any:
    size = module.config.resolution
    return module(jnp.zeros((1, size, size, module.config.in_channels)))


def _unitoken_parts(config: UniTokenConfig) -> Mapping[str, Any]:
    vision = {} if config.vision is None else {"vision/": config.vision}
    return {"decoder/": config.decoder} | vision


def _siglip_parts(config: SiglipConfig) -> Mapping[str, Any]:
    return {"vision/": config.vision}  # the text tower alone is no published class


def _run_clip_text(module: ClipText) -> Any:
    return module(jnp.zeros((1, module.config.length), jnp.int32))


def _run_unitok(module: UniTok | ViTaminClip) -> Any:
    text = jnp.zeros((1, module.config.text.length), jnp.int32)
    return module(jnp.zeros((1, 32, 32, 3)), text)


def _run_dinov2(module: Dinov2) -> Any:
    size = module.config.grid * module.config.patch
    return module(jnp.zeros((1, size, size, 3)))


def _run_lpips(module: Lpips | StLpips) -> Any:
    image = jnp.zeros((1, 32, 32, 3))
    return module(image, image)


def _run_inception(module: InceptionV3) -> Any:
    return module(jnp.zeros((1, 32, 32, 3), jnp.uint8))


def _unitok_mllm_parts(config: UniTokMllmConfig) -> Mapping[str, Any]:
    return {"decoder/": config.decoder}


def _unitok_parts(config: UniTokConfig | ViTaminClipConfig) -> Mapping[str, Any]:
    return {"text/": config.text}


NETWORKS = (
    Network("chameleon", DecoderConfig, Decoder, Decoder.initialise, chameleon.counts),
    Network(
        "siglip_vision", SiglipVisionConfig, SiglipVision, _run_vision, siglip.counts
    ),
    Network("siglip", SiglipConfig, Siglip, _run_siglip, siglip.counts, _siglip_parts),
    Network(
        "unitoken",
        UniTokenConfig,
        UniToken,
        UniToken.initialise,
        unitoken.counts,
        _unitoken_parts,
    ),
    Network("vqgan", VQGANConfig, VQGAN, _run_vqgan, vqgan.counts),
    Network("unitok", UniTokConfig, UniTok, _run_unitok, unitok.counts, _unitok_parts),
    Network(
        "vitamin_clip",
        ViTaminClipConfig,
        ViTaminClip,
        _run_unitok,
        vitamin_clip.counts,
        _unitok_parts,
    ),
    Network("clip_text", ClipTextConfig, ClipText, _run_clip_text, clip_text.counts),
    Network(
        "unitok_mllm",
        UniTokMllmConfig,
        UniTokMllm,
        UniTokMllm.initialise,
        unitok_mllm.counts,
        _unitok_mllm_parts,
    ),
    Network("dinov2", Dinov2Config, Dinov2, _run_dinov2, dinov2.counts),
    Network("lpips", LpipsConfig, Lpips, _run_lpips, lpips.counts),
    Network("stlpips", StLpipsConfig, StLpips, _run_lpips, stlpips.counts),
    Network(
        "inception", InceptionConfig, InceptionV3, _run_inception, inception.counts
    ),
    Network("llamagen", LlamaGenConfig, LlamaGen, LlamaGen.initialise, llamagen.counts),
)


def network_of(config: Any) -> Network:
    """The network that a configuration is of.

    Raises:
        WeightsError: none of ours.
    """
    for network in NETWORKS:
        if type(config) is network.config:
            return network
    raise WeightsError(
        f"{type(config).__name__} is the configuration of no network whose weights can"
        f" be converted; known are {', '.join(n.config.__name__ for n in NETWORKS)}"
    )


def node_of(config: Any) -> dict[str, Any]:
    """A configuration as primitives, with the kind that `config_of` needs."""
    return {"kind": network_of(config).kind, **plain(config)}


def config_of(node: Mapping[str, Any], path: str) -> Any:
    """The configuration that a `model` node describes; the reverse of `node_of`.

    Raises:
        WeightsError: a kind that is not ours.
        ConfigError: a field that the kind does not have.
    """
    fields = dict(node)
    kind = fields.pop("kind", None)
    for network in NETWORKS:
        if network.kind == kind:
            return build(network.config, fields, path)
    raise WeightsError(
        f"{path}.kind is {kind!r}{nearest(str(kind), (n.kind for n in NETWORKS))}"
    )
