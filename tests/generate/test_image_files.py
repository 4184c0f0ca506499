"""Images as files: read upright, put in grids, written whole or not at all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unitoken_jax.config import UserError
from unitoken_jax.generate import image_files


@given(st.integers(1, 17), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_a_grid_holds_every_image_once_and_is_nearly_square(count, high, wide, gap):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(images, (count, high, wide, 3))
    sheet = image_files.grid(images, gap)
    rows = (sheet.shape[0] + (gap if count > 1 else 0)) // (high + gap)
    columns = (sheet.shape[1] + (gap if count > 1 else 0)) // (wide + gap)
    if count == 1:
        np.testing.assert_array_equal(sheet, images[0])
        return
    assert rows * columns >= count > (rows - 1) * columns
    assert 0 <= columns - rows <= 1
    places = [
        sheet[r * (high + gap) : r * (high + gap) + high, c * (wide + gap), 0]
        for r in range(rows)
        for c in range(columns)
    ]
    found = np.stack(places)
    np.testing.assert_array_equal(found[:count], images[..., 0, 0])
    assert (found[count:] == 255).all()


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".webp", ".jpg", ".jpeg"])
def test_an_image_is_written_in_the_format_of_its_ending(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    image_files.check_target(path)
    image = np.full((8, 9, 3), 77, np.uint8)
    image_files.save(path, image)
    with Image.open(path) as written:
        assert written.format in ("PNG", "WEBP", "JPEG")
        assert written.format.lower()[:2] == suffix.lower()[1:3]
        np.testing.assert_allclose(np.asarray(written.convert("RGB")), image, atol=2)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "image.png"
    image_files.save(path, np.zeros((4, 4, 3), np.uint8))
    before = path.read_bytes()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        image_files.save(tmp_path / "folder.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match=r"a.png: .*directory does not exist"):
        image_files.check_target(tmp_path / "none" / "a.png")
    with pytest.raises(UserError, match="is a directory"):
        image_files.check_file(tmp_path / "folder")
    with pytest.raises(UserError, match="is no directory"):
        image_files.check_file(path / "b.png")
    assert path.read_bytes() == before
    names = {each.name for each in tmp_path.iterdir()}
    assert names == {"image.png", "folder", "folder.png"}


def test_what_is_written_is_read_again(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    image_files.save(tmp_path / "a.png", image)
    np.testing.assert_array_equal(image_files.read(tmp_path / "a.png"), image)
    with pytest.raises(UserError, match=r"nowhere.png cannot be read"):
        image_files.read(tmp_path / "nowhere.png")
