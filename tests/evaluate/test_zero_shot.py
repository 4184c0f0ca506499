"""Zero-shot classification: the arithmetic on embeddings that are known."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from unitoken_jax.config import ConfigError, UserError
from unitoken_jax.evaluate import zero_shot
from unitoken_jax.evaluate.zero_shot import Labelled, ZeroShotConfig

NAMES = ("ant", "bee", "cat")
DIRECTIONS = np.random.default_rng(0).normal(size=(9, 5))


class Tower(nn.Module):
    """Pictures and texts that hold a number are embedded as its direction."""

    collapsed: bool = False

    def encode_image(self, images):
        number = jnp.round((images[:, 0, 0, 0] + 1) * 127.5).astype(jnp.int32)
        return 3 * self.embed(number)

    def encode_text(self, text):
        return 2 * self.embed(text[:, 0])

    def embed(self, number):
        factor = 0 if self.collapsed else 1
        return jnp.asarray(DIRECTIONS, jnp.float32)[factor * number]


def encode(text):
    """3 · class + template."""
    name, template = text.split("/")
    return np.array([3 * NAMES.index(name) + int(template)], np.int32)


def picture(number):
    return Labelled(np.full((2, 2, 3), number, np.uint8), number // 3)


CONFIG = ZeroShotConfig(templates=("{}/0", "{}/1"), batch=3, ranks=(1, 2), examples=2)


def test_a_class_is_the_mean_of_its_unit_vectors():
    found = zero_shot.classifier(
        Tower(), {}, NAMES, CONFIG.templates, encode=encode, batch=3
    )
    unit = DIRECTIONS / np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)
    mean = (unit[0::3] + unit[1::3]) / 2
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    larger = zero_shot.classifier(
        Tower(), {}, NAMES, CONFIG.templates, encode=encode, batch=64
    )
    np.testing.assert_allclose(found, larger, rtol=1e-6)


def test_pictures_are_ranked_among_the_classes():
    shown = [picture(n) for n in (0, 1, 2, 3, 6, 6, 8)]
    found = zero_shot.evaluate(
        Tower(), {}, iter(shown), NAMES, encode=encode, config=CONFIG
    )
    classes = zero_shot.classifier(
        Tower(), {}, NAMES, CONFIG.templates, encode=encode, batch=8
    )
    seen = DIRECTIONS[[0, 1, 2, 3, 6, 6, 8]]
    order = np.argsort(-seen @ classes.T, axis=1)
    right = np.array([0, 0, 0, 1, 2, 2, 2])
    for k in (1, 2):
        hits = (order[:, :k] == right[:, None]).any(1).mean()
        measure = found.measures[f"top@{k}"]
        assert measure.value == pytest.approx(hits)
        assert measure.count == 7
    # Three of seven pictures are cats, three ants.
    assert found.measures["top@1"].baseline == pytest.approx(3 / 7)
    assert found.measures["top@2"].baseline == pytest.approx(6 / 7)
    sample = found.samples["classified"][0]
    assert sample["caption"] == "ant"
    assert [f["caption"] for f in sample["found"]] == [NAMES[i] for i in order[0]]
    assert [f["right"] for f in sample["found"]] == [i == 0 for i in order[0]]


def test_of_classes_that_tie_the_first_is_answered():
    shown = [picture(0), picture(3)]
    found = zero_shot.evaluate(
        Tower(collapsed=True), {}, shown, NAMES, encode=encode, config=CONFIG
    )
    assert found.measures["top@1"].value == 0.5


def test_pictures_and_names_of_folders(tmp_path):
    for i, name in enumerate(("n1/a.png", "n1/b.png", "n2/c.png", "n2/d.png")):
        path = tmp_path / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 9), (50 * i, 0, 0)).save(path)
    names, templates = tmp_path / "names.txt", tmp_path / "templates.txt"
    names.write_text("tench\ngoldfish\n")
    templates.write_text("a {}\nthe {}\n\n")
    config = ZeroShotConfig(
        folder=str(tmp_path / "val"),
        names=str(names),
        templates_file=str(templates),
        images=2,
    )
    found, classes = zero_shot.read_folder(config, 4, Image.open)
    assert [(p.image.shape, p.label) for p in found] == [((4, 4, 3), 0), ((4, 4, 3), 1)]
    assert classes == ["tench", "goldfish"]
    assert zero_shot.with_templates(config).templates == ("a {}", "the {}")
    templates.write_text("nothing")
    with pytest.raises(ConfigError, match=r"must have \{\} once"):
        zero_shot.with_templates(config)
    names.write_text("")
    with pytest.raises(ConfigError, match="is empty: give names of classes"):
        zero_shot.read_folder(config, 4, Image.open)
    other = dataclasses.replace(config, preprocess="short")
    with pytest.raises(ConfigError, match="did you mean 'short_side'"):
        zero_shot.read_folder(other, 4, Image.open)
    names.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        zero_shot.read_folder(config, 4, Image.open)


def test_a_picture_that_cannot_be_read_is_left_out_with_its_class(tmp_path):
    def read(path):
        if path.name == "b.png":
            raise UserError(f"{path} is broken.")
        return Image.open(path)

    for name in ("n1/a.png", "n1/b.png", "n2/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 9)).save(tmp_path / name)
    config = ZeroShotConfig(folder=str(tmp_path))
    found, classes = zero_shot.read_folder(config, 4, read)
    assert [p.label for p in found] == [0, 1]
    assert classes == ["n1", "n2"]


def test_templates_name_the_class_once():
    with pytest.raises(ValueError, match=r"'a photo' must have \{\} once"):
        ZeroShotConfig(templates=("a photo",))
