"""A tiny UniToken with random weights, its tokenizer and its rules."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.anyres import ViewsConfig
from data_pipelines.config import DataConfig
from data_pipelines.prompts import Composer
from data_pipelines.sequence import LayoutConfig
from data_pipelines.vocabulary import Vocabulary, train_vocabulary
from unitoken_jax.generate.assistant import Assistant, GenerationConfig
from unitoken_jax.models import registry

CODES = 16
LONGEST = 80
DATA = DataConfig(
    kind="sequences",
    image_size=8,
    row_length=96,
    views=ViewsConfig(size=8, patch=4),
    layout=LayoutConfig(size_tokens=False, code_stride=2, prompt_template="{caption}"),
)


@pytest.fixture(scope="session")
def data_config():
    return DATA


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    texts = ["a red heart", "what is this?", "a blue bird on a tree"] * 4
    path.write_text(train_vocabulary(texts, CODES, 280, 4))
    return Vocabulary.from_file(path)


@pytest.fixture(scope="session")
def unitoken(vocabulary):
    """The module and its parameters, large enough that logits differ clearly."""
    decoder = {
        "vocab_size": vocabulary.size,
        "hidden": 32,
        "intermediate": 48,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
    }
    vision = {"hidden": 16, "mlp": 24, "layers": 1, "heads": 2, "image": 8, "patch": 4}
    node = {
        "kind": "unitoken",
        "decoder": decoder,
        "vision": {**vision, "head": False},
        "first_image_code": int(vocabulary.code_ids.min()),
        "last_image_code": int(vocabulary.code_ids.max()),
    }
    return _system(node, 0)


@pytest.fixture(scope="session")
def tokenizer():
    node = {
        "kind": "vqgan",
        "resolution": 8,
        "ch": 4,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "z_channels": 4,
        "embed_dim": 4,
        "n_embed": CODES,
        "num_groups": 2,
    }
    return _system(node, 1)


def _system(node, seed):
    system = registry.build(node)
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return rng.normal(centre, 0.4, shape.shape).astype(np.float32)

    shapes = registry.abstract_params(system)
    params = jax.tree_util.tree_map_with_path(leaf, shapes)
    return system.module, jax.device_put(params)


@pytest.fixture(scope="session")
def next_logits(unitoken):
    """Logits [V] after a list of tokens, from one full forward pass of padded length.

    Padding stands behind the tokens, where a causal model cannot see it.
    """
    model, params = unitoken

    @jax.jit
    def run(tokens, slots, tiles, last):
        batch = {
            "tokens": tokens[None],
            "slots": slots[None],
            "positions": jnp.arange(LONGEST)[None],
            "segment_ids": jnp.ones((1, LONGEST), jnp.int32),
            "pixels": tiles[None],
        }
        hidden = model.apply({"params": params}, batch)
        return model.apply({"params": params}, hidden[0, last], method="logits")

    def logits(tokens, slots=(), tiles=None):
        room = np.zeros(LONGEST, np.int32)
        places = np.full(LONGEST, -1, np.int32)
        room[: len(tokens)] = tokens
        places[: len(slots)] = slots
        if tiles is None:
            tiles = np.zeros((1, 8, 8, 3), np.uint8)
        return run(room, places, tiles, len(tokens) - 1)

    return logits


@pytest.fixture(scope="session")
def assistant(unitoken, tokenizer, vocabulary):
    config = GenerationConfig(batch=4, answer_limit=6, length_multiple=8)
    return Assistant(*unitoken, *tokenizer, Composer(vocabulary, DATA), config)


@pytest.fixture
def reconfigured(assistant):
    def replace(**changes):
        config = dataclasses.replace(assistant.config, **changes)
        return dataclasses.replace(assistant, config=config)

    return replace


@pytest.fixture
def views(assistant):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    return [assistant.composer.view(picture) for picture in pictures]
