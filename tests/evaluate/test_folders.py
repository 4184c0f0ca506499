"""Folders of pictures: what is found and read, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from unitoken_jax.config import UserError
from unitoken_jax.evaluate import folders


def save(path, value=0, sides=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", sides, (value, 0, 0)).save(path)


def test_pictures_are_found_in_order_and_read_one_by_one(tmp_path):
    for i, name in enumerate(("b.png", "a/z.jpg", "a/c.PNG")):
        save(tmp_path / name, 100 * i)
    (tmp_path / "notes.txt").write_text("no picture")
    found = folders.find(tmp_path)
    assert [p.name for p in found] == ["c.PNG", "z.jpg", "b.png"]
    sizes = [x.shape for x in folders.Folder(found)]
    assert sizes == [(4, 6, 3)] * 3
    cropped = np.stack(list(folders.Folder(found, "centre_crop", 4)))
    assert cropped.shape == (3, 4, 4, 3)
    assert cropped[0, 0, 0].tolist() == [200, 0, 0]


def test_faults_are_sentences(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a directory"):
        folders.find(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no pictures"):
        folders.find(tmp_path)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"broken\.png is not a picture"):
        list(folders.Folder(folders.find(tmp_path)))


def test_classes_are_folders(tmp_path):
    for name in ("n2/x.png", "n1/a.png", "n1/b.png"):
        save(tmp_path / name)
    found, names = folders.labelled(tmp_path)
    assert [(p.name, c) for p, c in found] == [("a.png", 0), ("b.png", 0), ("x.png", 1)]
    assert names == ["n1", "n2"]
    assert folders.labelled(tmp_path, ["tench", "ray"]) == (found, ["tench", "ray"])
    with pytest.raises(UserError, match="2 folders, but there are 1 names"):
        folders.labelled(tmp_path, ["tench"])
    with pytest.raises(UserError, match="holds no folders"):
        folders.labelled(tmp_path / "n1")
