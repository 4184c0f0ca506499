"""What stages are made of, out of a prepared data set."""

import shutil

import numpy as np
import pytest
import tiny_chain

from unitoken_jax.config import ConfigError, UserError, plain
from unitoken_jax.models.image_tokenizer import ImageTokenizer
from unitoken_jax.train.components import StageBuilder
from unitoken_jax.train.experiment import build_experiment


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("components") / "data"
    return directory, tiny_chain.make_data(directory)


@pytest.fixture(scope="module")
def node(data_dir) -> dict:
    return dict(plain(tiny_chain.get_config(*data_dir)))


@pytest.fixture(scope="module")
def stages(node):
    return build_experiment(node).stages


def _changed(node: dict, name: str, **fields):
    stages = {name: node["stages"][name] | fields}
    return build_experiment(node | {"order": (name,), "stages": stages}).stages[name]


def test_a_tokenizer_has_pictures_and_shows_them(stages, data_dir, tmp_path) -> None:
    stage = stages["tokenizer"]
    made = StageBuilder(tmp_path).build(stage, "config", data_dir[0])
    assert made.system is stage.system
    assert isinstance(made.system.image_tokenizer, ImageTokenizer)
    assert made.pictures is not None
    assert made.frozen_models == {}
    side = tiny_chain.IMAGE
    batch = next(made.batches)
    assert batch["image"].shape == (8, side, side, 3)
    assert made.batches.batch_spec["image"] == ((8, side, side, 3), np.uint8)
    made.batches.close()
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_tokenizer_shows_nothing(stages, data_dir, tmp_path) -> None:
    made = StageBuilder(tmp_path).build(stages["siglip"], "config", data_dir[0])
    assert made.pictures is None
    made.batches.close()


def test_a_stage_may_have_data_of_its_own(node, data_dir, tmp_path) -> None:
    own = tmp_path / "own"
    shutil.copytree(data_dir[0], own)
    data = node["stages"]["tokenizer"]["data"] | {"directory": str(own)}
    stage = _changed(node, "tokenizer", data=data)
    StageBuilder(tmp_path).check_data(stage, "config", tmp_path / "none")
    with pytest.raises(UserError, match=r"^config\.data: .*none is not a prepared"):
        StageBuilder(tmp_path).check_data(
            _changed(node, "tokenizer"), "config", tmp_path / "none"
        )


def test_a_vocabulary_of_another_size_is_refused(node, data_dir, tmp_path) -> None:
    model = node["stages"]["siglip"]["model"]
    text = model["text"] | {"vocab_size": model["text"]["vocab_size"] + 1}
    stage = _changed(node, "siglip", model=model | {"text": text})
    with pytest.raises(ConfigError, match=r"^config\.model\.text\.vocab_size is "):
        StageBuilder(tmp_path).check_data(stage, "config", data_dir[0])


def test_weights_that_are_not_there_are_named(node, data_dir, tmp_path) -> None:
    weights = {"format": "lpips", "path": str(tmp_path / "lpips.pth")}
    stage = _changed(node, "tokenizer", frozen_models={"perceptual": weights})
    message = r"^config\.frozen_models\.perceptual: .*lpips\.pth"
    with pytest.raises(UserError, match=message):
        StageBuilder(tmp_path).build(stage, "config", data_dir[0])


def test_only_tokenizers_give_codes(stages, data_dir, tmp_path) -> None:
    builder = StageBuilder(tmp_path)
    with pytest.raises(ConfigError, match="a siglip gives no image codes"):
        builder.tokenize(stages["siglip"], tmp_path / "siglip", data_dir[0])
    with pytest.raises(UserError, match="checkpoint"):  # it was not trained yet
        builder.tokenize(stages["tokenizer"], tmp_path / "tokenizer", data_dir[0])
    assert not (tmp_path / "codes").exists()
