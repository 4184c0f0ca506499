"""Folders of pictures: what is found, read and paired, and what is refused."""

import dataclasses
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from data_pipelines.images import transforms
from unitoken_jax.config import UserError
from unitoken_jax.evaluate.feature_networks import folders


def read(path):
    """Read a file as a Folder wants it."""
    try:
        return Image.open(path).convert("RGB")
    except OSError as error:
        raise UserError(f"{path} is not a picture.") from error


def save(path, value=0, sides=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", sides, (value, 0, 0)).save(path)


def folder(directory, *names):
    """Return a folder with files of these names, which are not read."""
    return folders.Folder(directory, [directory / name for name in names], read)


def test_pictures_are_found_in_order_and_read_one_by_one(tmp_path):
    for i, name in enumerate(("b.png", "a/z.jpg", "a/c.PNG")):
        save(tmp_path / name, 100 * i)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    found = folders.find(tmp_path)
    assert [p.name for p in found] == ["c.PNG", "z.jpg", "b.png"]
    sizes = [x.shape for x in folders.Folder(tmp_path, found, read)]
    assert sizes == [(4, 6, 3)] * 3
    cropped = np.stack(list(folders.Folder(tmp_path, found, read, "center_crop", 4)))
    assert cropped.shape == (3, 4, 4, 3)
    assert cropped[0, 0, 0].tolist() == [200, 0, 0]


def test_faults_are_sentences(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a directory"):
        folders.find(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no pictures"):
        folders.find(tmp_path)


def test_a_file_that_cannot_be_read_is_set_aside(tmp_path, caplog):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = folders.Folder(tmp_path, folders.find(tmp_path), read)
    assert list(broken) == []
    with pytest.raises(UserError, match=r"none of its 1 .*broken\.png is not a pict"):
        broken.report()
    save(tmp_path / "good.png")
    mixed = folders.Folder(tmp_path, folders.find(tmp_path), read)
    assert [place for place, _ in mixed.numbered()] == [1]
    mixed.report()
    assert "1 of 2 pictures (50 %) are set aside" in caplog.text
    assert "broken.png is not a picture" in caplog.text


@pytest.mark.parametrize(
    ("real", "generated", "pairs", "missing"),
    [
        # By path: a cat with that cat, whatever the order and the endings.
        (
            ["cat/0.png", "dog/0.png"],
            ["cat/0.jpg", "dog/0.webp"],
            [(0, 0), (1, 1)],
            ([], []),
        ),
        (["cat/0.png"], ["dog/0.png"], [], (["cat/0.png"], ["dog/0.png"])),
        (["b.png", "c.png"], ["a.png", "b.PNG"], [(0, 1)], (["c.png"], ["a.png"])),
        (["a.b.png", "a.c.png"], ["a.c.jpg"], [(1, 0)], (["a.b.png"], [])),
        # Two endings of one name in both are two pictures.
        (["a.jpg", "a.png"], ["a.jpg", "a.png"], [(0, 0), (1, 1)], ([], [])),
        # Two endings without any partner harm nobody.
        (
            ["a.jpg", "a.png", "b.png"],
            ["b.png"],
            [(2, 0)],
            (["a.jpg", "a.png"], []),
        ),
    ],
)
def test_pictures_are_paired_by_their_paths(tmp_path, real, generated, pairs, missing):
    sides = folder(tmp_path / "real", *real), folder(tmp_path / "made", *generated)
    found = folders.pair(*sides)
    assert found.places == pairs
    assert tuple([str(p) for p in side] for side in found.missing) == missing


@pytest.mark.parametrize("generated", [["a.png"], ["a.webp"], ["a.png", "a.webp"]])
def test_a_name_with_two_endings_is_refused(tmp_path, generated):
    real = folder(tmp_path / "real", "a.jpg", "a.png")
    made = folder(tmp_path / "made", *generated)
    for sides in ((real, made), (made, real)):
        with pytest.raises(UserError, match=r"holds a with the endings \.\w+, \.\w+"):
            folders.pair(*sides)


def test_classes_are_folders(tmp_path):
    for name in ("n2/x.png", "n1/a.png", "n1/b.png", ".hidden/c.png"):
        save(tmp_path / name)
    found, names = folders.labelled(tmp_path)
    assert [(p.name, c) for p, c in found] == [("a.png", 0), ("b.png", 0), ("x.png", 1)]
    assert names == ["n1", "n2"]
    assert folders.labelled(tmp_path, ["tench", "ray"]) == (found, ["tench", "ray"])
    with pytest.raises(UserError, match="2 folders, but there are 1 names"):
        folders.labelled(tmp_path, ["tench"])
    with pytest.raises(UserError, match=re.escape("holds no folders")):
        folders.labelled(tmp_path / "n1")


def comparison(tmp_path, alexnet):
    """Return the config of a comparison of two folders."""
    return folders.FoldersConfig(
        real=tmp_path / "real",
        generated=tmp_path / "generated",
        alexnet=str(alexnet),
        preprocess="center_crop",
        size=16,
        batch=4,
    )


def test_transparency_is_blended_as_everywhere_else(tmp_path, alexnet):
    rng = np.random.default_rng(0)
    for side in ("real", "generated"):
        (tmp_path / side / "cat").mkdir(parents=True)
    for i in range(5):
        pixels = rng.integers(0, 256, (20, 20, 4), np.uint8)
        picture = Image.fromarray(pixels, "RGBA")
        picture.save(tmp_path / "real" / "cat" / f"{i}.webp", lossless=True, exact=True)
        transforms.composite(picture).save(tmp_path / "generated" / "cat" / f"{i}.png")
    found = folders.compare_folders(comparison(tmp_path, alexnet))
    assert found["frechet_alexnet"].value < 1e-6
    assert found["precision_alexnet"].value == 1
    assert found["stlpips_alexnet"].value < 1e-9
    assert found["stlpips_alexnet"].count == 5


def test_exif_is_read_for_both_folders_or_for_none(tmp_path, alexnet):
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for side in ("real", "generated"):
        (tmp_path / side).mkdir()
    for i in range(5):
        picture = Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8))
        picture.save(tmp_path / "real" / f"{i}.png", exif=exif)
        upright = picture.transpose(Image.Transpose.ROTATE_270)
        upright.save(tmp_path / "generated" / f"{i}.png")
    given = comparison(tmp_path, alexnet)
    assert folders.compare_folders(given)["stlpips_alexnet"].value > 1e-4
    given = dataclasses.replace(given, orientation="upright")
    assert folders.compare_folders(given)["stlpips_alexnet"].value < 1e-9


def test_a_broken_picture_is_left_out_of_sets_and_pairs(tmp_path, alexnet, caplog):
    rng = np.random.default_rng(0)
    for side in ("real", "generated"):
        (tmp_path / side).mkdir()
        for i in range(6):
            pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / side / f"{i}.png")
    (tmp_path / "generated" / "3.png").write_bytes(b"no picture")
    found = folders.compare_folders(comparison(tmp_path, alexnet))
    assert found["frechet_alexnet"].count == found["stlpips_alexnet"].count == 5
    assert "generated: 1 of 6 pictures" in caplog.text


def test_two_folders_are_compared(tmp_path, alexnet):
    rng = np.random.default_rng(0)
    for side in ("real", "generated"):
        (tmp_path / side).mkdir()
        for i in range(5):
            pixels = rng.integers(0, 256, (20, 18 + i, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / side / f"{i}.png")
    given = comparison(tmp_path, alexnet)
    found = folders.compare_folders(given)
    assert list(found) == [
        *("frechet_alexnet", "kernel_alexnet", "precision_alexnet", "recall_alexnet"),
        "stlpips_alexnet",
    ]
    folders.write(tmp_path / "found.json", found)
    stored = json.loads((tmp_path / "found.json").read_text())
    assert stored["frechet_alexnet"]["value"] == found["frechet_alexnet"].value
    given = dataclasses.replace(given, generated=given.real)
    same = folders.compare_folders(given)
    assert same["frechet_alexnet"].value < 1e-6
    assert same["stlpips_alexnet"].value < 1e-6
    given = dataclasses.replace(given, preprocess="none")
    with pytest.raises(UserError, match="choose a preprocessing"):
        folders.compare_folders(given)
    given = dataclasses.replace(given, alexnet="")
    with pytest.raises(UserError, match="needs a network's weights"):
        folders.compare_folders(given)
