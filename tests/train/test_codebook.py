"""A codebook that is fitted to latents, and the command that fits one."""

import dataclasses
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_chain
from random_weights import random_weights

from unitoken_jax import convert
from unitoken_jax.errors import UserError
from unitoken_jax.models import registry
from unitoken_jax.models.system import call
from unitoken_jax.models.vqgan import VQGAN, VQGANConfig
from unitoken_jax.ops import pixels
from unitoken_jax.train import codebook

CONFIG = VQGANConfig(
    resolution=16,
    ch=8,
    ch_mult=(1, 2),
    num_res_blocks=1,
    z_channels=8,
    embed_dim=4,
    n_embed=32,
    num_groups=4,
)


@pytest.fixture(scope="module")
def tokenizer():
    system = registry.make_system(CONFIG)
    return VQGAN(CONFIG), random_weights(registry.abstract_params(system))


def _images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (count, 16, 16, 3), np.uint8))


def test_all_codes_are_used_and_nothing_else_changes(tokenizer) -> None:
    model, params = tokenizer
    images = _images(70)  # more than a batch
    fitted = codebook.fit(model, params, images)
    assert {k: v for k, v in fitted.items() if k != "codebook"} == {
        k: v for k, v in params.items() if k != "codebook"
    }
    shown = pixels.normalize(jnp.asarray(np.stack(images)))
    errors = []
    for each in (params, fitted):
        output = call(model, each, "__call__", shown)
        errors.append(float(output["commit_loss"]))
    assert len(np.unique(output["codes"])) == CONFIG.n_embed
    assert errors[1] < 0.5 * errors[0]


def test_the_same_images_give_the_same_codebook(tokenizer) -> None:
    first, again = (codebook.fit(*tokenizer, _images(8))["codebook"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32


def test_too_few_images_are_refused(tokenizer) -> None:
    many = dataclasses.replace(CONFIG, n_embed=1000)
    params = random_weights(registry.abstract_params(registry.make_system(many)))
    with pytest.raises(UserError, match="64 latents are too few for 1,000 codes"):
        codebook.fit(VQGAN(many), params, _images(1))
    with pytest.raises(UserError, match="0 latents are too few"):
        codebook.fit(*tokenizer, [])


def test_the_command_writes_weights(tokenizer, tmp_path) -> None:
    model, params = tokenizer
    convert.save("jax", model, params, tmp_path / "before.safetensors")
    data, output = tmp_path / "data", tmp_path / "after.safetensors"
    tiny_chain.make_data(data)
    command = [sys.executable, "-m", "unitoken_jax.train.codebook"]
    command += [f"--input={tmp_path / 'before.safetensors'}", f"--data={data}"]
    ended = subprocess.run(
        [*command, f"--output={output}"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "32 codes" in ended.stdout
    _, found = convert.load("jax", output)
    assert np.any(found["codebook"] != params["codebook"])
