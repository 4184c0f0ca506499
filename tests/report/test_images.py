"""Images that stand in the page itself, and the sheets that are chosen."""

import base64
import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from unitoken_jax.report import images


def save(path, width, height, mode="RGB", **options):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path, **options)
    return path


def decoded(image):
    """Return the picture of a data URI."""
    _, _, content = image.uri.partition(",")
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_small_images_are_passed_on_as_they_are(tmp_path, ending):
    path = save(tmp_path / f"a.{ending}", 20, 10)
    found = images.inline(path)
    assert (found.width, found.height) == (20, 10)
    assert base64.b64decode(found.uri.partition(",")[2]) == path.read_bytes()
    assert decoded(found).size == (20, 10)


def test_large_and_unusual_images_become_small_ones_that_browsers_know(tmp_path):
    wide = images.inline(save(tmp_path / "wide.png", 3000, 30))
    assert (wide.width, wide.height) == (1024, 10)
    assert decoded(wide).size == (1024, 10)
    odd = images.inline(save(tmp_path / "odd.bmp", 12, 8))
    assert odd.uri.startswith("data:image/webp")
    assert (odd.width, odd.height) == decoded(odd).size == (12, 8)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return save(tmp_path_factory.mktemp("images") / "a.png", 16, 16).read_bytes()


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(length=st.integers(0, 400), start=st.binary(max_size=8))
def test_what_is_damaged_is_left_out_and_stops_nothing(
    tmp_path, content, length, start
):
    path = tmp_path / "cut.png"
    path.write_bytes(start + content[: min(length, len(content) - 20)])
    found = images.inline(path)
    assert found is None or decoded(found).size == (found.width, found.height)
    assert images.inline(tmp_path / "missing.png") is None


def test_the_first_and_the_newest_sheet_of_each_kind_are_shown(tmp_path):
    names = ["pairs-000100", "pairs-000200", "pairs-001300", "views-000100", "odd"]
    paths = [save(tmp_path / f"{name}.png", 4, 4) for name in names]
    (tmp_path / "pairs-001300.png").write_bytes(b"cut off")
    found = [title for title, _ in images.sheets(paths)]
    assert found == ["odd", "Pairs, step 100", "Views, step 100"]
