"""Fixtures of the tiny sampler and its run directory."""

import jax
import jax.numpy as jnp
import pytest
from assistants import (  # noqa: F401
    data_config,
    data_dir,
    next_logits,
    one_device,
    run_node,
    sampler,
    siglip,
    tokenizer,
    unitoken,
    views,
    vocabulary,
    vocabulary_file,
    workdir,
)

from unitoken_jax import convert
from unitoken_jax.models import registry
from unitoken_jax.models.perceptual.stlpips import StLpips, StLpipsConfig


@pytest.fixture(scope="session")
def alexnet(tmp_path_factory):
    """Weights of a tiny AlexNet in the published layout."""
    module = StLpips(StLpipsConfig(widths=(4, 4, 8, 8, 8)))
    picture = jnp.zeros((1, 16, 16, 3))
    params = module.init(jax.random.key(0), picture, picture)["params"]
    path = tmp_path_factory.mktemp("weights") / "alexnet"
    convert.save("stlpips", module, registry.unboxed(params), path)
    return path
