"""Systems from config nodes: parameters, names and shardings without data."""

import math

import jax
import numpy as np
import pytest

from unitoken_jax.config import ConfigError
from unitoken_jax.models import registry
from unitoken_jax.parallel import rules
from unitoken_jax.parallel.mesh import MeshConfig, make_mesh

DECODER = {
    "vocab_size": 32,
    "hidden": 16,
    "intermediate": 24,
    "layers": 2,
    "heads": 2,
    "kv_heads": 2,
    "head_dim": 8,
}
VISION = {"hidden": 8, "mlp": 12, "layers": 2, "heads": 2, "image": 8, "patch": 4}
CODES = {"first_image_code": 4, "last_image_code": 19}
UNITOKEN = {"kind": "unitoken", "decoder": DECODER, "vision": VISION, **CODES}
NODES = {
    "unitoken": UNITOKEN,
    "discrete": {**UNITOKEN, "vision": None},
    "siglip": {
        "kind": "siglip",
        "embed": 8,
        "vision": VISION,
        "text": {
            "vocab_size": 9,
            "length": 5,
            "hidden": 8,
            "mlp": 12,
            "layers": 1,
            "heads": 2,
        },
    },
    "vqgan": {
        "kind": "vqgan",
        "resolution": 16,
        "ch": 8,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "z_channels": 8,
        "embed_dim": 8,
        "n_embed": 16,
        "num_groups": 4,
    },
    "unitok_mllm": {
        "kind": "unitok_mllm",
        "decoder": DECODER | {"qk_norm": False},
        "codebooks": 2,
        "codes": 6,
        "code_width": 4,
        "projection": 16,
        "projection_heads": 2,
        "depth_layers": 1,
    },
    "llamagen": {
        "kind": "llamagen",
        "hidden": 16,
        "layers": 1,
        "heads": 2,
        "multiple_of": 8,
        "classes": 3,
        "codebooks": 2,
        "codes": 6,
        "side": 2,
        "depth_layers": 1,
    },
}


@pytest.mark.parametrize("name", NODES)
def test_shapes_names_and_values_agree(name):
    system = registry.build(NODES[name])
    shapes = registry.abstract_params(system)
    axes = registry.logical_axes(system)
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    placed = rules.shardings(axes, shapes, mesh)
    assert jax.tree.structure(placed) == jax.tree.structure(shapes)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(shapes))


def test_parameters_are_made_where_they_live():
    system = registry.build(NODES["discrete"])
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    placed = rules.shardings(
        registry.logical_axes(system), registry.abstract_params(system), mesh
    )
    params = jax.jit(system.init_params, out_shardings=placed)(jax.random.key(0))
    kernel = params["decoder"]["layers"]["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 8, 12)
    alone = jax.jit(system.init_params)(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params, alone)


def test_faults_name_the_path_and_the_nearest():
    with pytest.raises(
        ConfigError, match=r"config\.model\.kind: 'unitokn' is not .*unitoken"
    ):
        registry.build({"kind": "unitokn"})
    with pytest.raises(ConfigError, match=r"config\.model\.decoder\.hiden.*'hidden'"):
        registry.build({"kind": "unitoken", "decoder": {"hiden": 3}})
    with pytest.raises(ConfigError, match=r"image codes .* do not lie"):
        registry.build({"kind": "unitoken", "decoder": {"vocab_size": 100}})


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        ("unitoken", {"decoder": {"head_dim": 5}}, "decoder: head_dim=5 must be even"),
        ("unitoken", {"decoder": {"layers": 0}}, "decoder: layers must be at least 1"),
        (
            "unitoken",
            {"decoder": {"dropout": 1.5}},
            r"dropout must be in \[0, 1\), not",
        ),
        (
            "unitoken",
            {"decoder": {"model_parallel_size": 3}},
            "decoder: model_parallel_size=3 must divide heads=32",
        ),
        (
            "unitoken",
            {"decoder": {"dtype": "bfloat61"}},
            r"decoder\.dtype: 'bfloat61' is not .*did you mean 'bfloat16'",
        ),
        ("unitoken", {"vision": {"dtype": "int32"}}, r"vision\.dtype: 'int32' is not"),
        ("unitoken", {"vision": {"patch": 385}}, "patch=385 must not exceed image=384"),
        ("unitoken", {"loss_chunk": 0}, ": loss_chunk must be at least 1, not 0"),
        ("siglip", {"text": {"heads": 5}}, "hidden=1152 must be a multiple of heads=5"),
        ("siglip", {"vision": {"layers": 0}}, "vision: layers must be at least 1"),
        ("unitok", {"vision": {"heads": 3}}, "hidden=1024 must be a multiple of heads"),
        ("unitok", {"text": {"heads": 0}}, "text: heads must be at least 1, not 0"),
        ("unitok_mllm", {"loss_chunk": 0}, ": loss_chunk must be at least 1"),
        ("unitok_mllm", {"code_chunk": 0}, ": code_chunk must be at least 1"),
        ("llamagen", {"loss_chunk": 0}, ": loss_chunk must be at least 1"),
        ("llamagen", {"dropout": 1.0}, r": dropout must be in \[0, 1\), not 1.0"),
    ],
)
def test_sizes_that_do_not_fit_are_faults_of_the_config(kind, fields, sentence):
    with pytest.raises(ConfigError, match=rf"^config\.model.*{sentence}"):
        registry.build({"kind": kind} | fields)


def test_published_size():
    shapes = registry.abstract_params(registry.build({"kind": "unitoken"}))
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)]
    assert sum(sizes) == 7_462_888_512


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("siglip", True),
        ("vqgan", False),
        (NODES["vqgan"] | {"revival_weight": 1.0}, True),
        ("unitoken", False),
        ({}, True),
        ({"supervision": "contrastive"}, True),
        ({"supervision": "reconstruction"}, False),
        ({"supervision": "reconstruction", "revival": 0.1}, True),
    ],
)
def test_which_losses_need_the_whole_batch(node, expected) -> None:
    if isinstance(node, str):
        node = NODES[node]
    elif "kind" not in node:
        node = {"kind": "unitok", "objective": node}
    assert registry.build(node).whole_batch == expected
