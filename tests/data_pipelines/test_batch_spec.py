"""Shapes known from a config are those of its loader's batches, for every kind."""

from dataclasses import replace

import coded
import numpy as np
import prepared
import pytest

from data_pipelines.classes import ClassesConfig
from data_pipelines.config import KINDS
from data_pipelines.loader import make_loader
from data_pipelines.tokenizers.tokenizer import read_vocabulary
from data_pipelines.unitok_mllm.rows import MLLMRowsConfig

# 3 × 2 tokens of 16 px are no square: the loader knows what a config cannot.
MLLM = MLLMRowsConfig(image_size=32, row_length=192, row_views=3, threads=0)
CLASSES = ClassesConfig(image_size=32, threads=0)
CASES = {
    "images": (prepared.IMAGES, prepared),
    "pairs": (prepared.PAIRS, prepared),
    "sequences": (prepared.SEQUENCES, prepared),
    "unitok_mllm": (MLLM, coded),
    "classes": (CLASSES, coded),
}


def spec_of(batch):
    """The specification of the arrays of a batch that go to the devices."""
    return {
        name: (array.shape, array.dtype)
        for name, array in batch.items()
        if name != "record"
    }


def test_every_kind_is_tried():
    assert CASES.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_as_the_loader_gives_them(kind, tmp_path):
    config, data = CASES[kind]
    directory = data.make(tmp_path / "set")
    vocabulary = read_vocabulary(directory / "tokenizer.json")
    with make_loader(config, directory, vocabulary, batch=4, seed=0) as loader:
        found, codes = spec_of(next(loader)), loader.codes
        assert loader.batch_spec == found
    tokens, codebooks = (codes.tokens, codes.codebooks) if codes else (None, 1)
    assert config.batch_spec(4, tokens=tokens, codebooks=codebooks) == found


def test_a_host_has_its_part(tmp_path):
    directory = prepared.make(tmp_path / "set")
    options = {"batch": 6, "seed": 0, "host": 1, "hosts": 3}
    with make_loader(prepared.IMAGES, directory, **options) as loader:
        assert loader.batch_spec == {"image": ((2, 32, 32, 3), np.uint8)}
        assert spec_of(next(loader)) == loader.batch_spec


def test_tokens_follow_the_stride():
    """Without a data set an image has a token for every stride along both sides."""
    layout = replace(CLASSES.layout, code_stride=8)
    spec = replace(CLASSES, layout=layout).batch_spec(2, codebooks=3)
    assert spec["codes"] == ((2, 16, 3), np.int32)
    spec = replace(MLLM, layout=layout).batch_spec(2, codebooks=3)
    assert spec["codes"] == ((2, 3, 16, 3), np.int32)
    assert spec["image_target_positions"] == ((2, 48), np.int32)
