"""docs/weights.md is what the tables say."""

from pathlib import Path

from unitoken_jax.convert.document import document
from unitoken_jax.convert.formats import FORMATS

PAGES = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date():
    command = "python -m unitoken_jax.convert.document > docs/weights.md"
    assert (PAGES / "weights.md").read_text() == document(), f"run {command}"


def test_every_format_is_explained():
    page = (PAGES / "convert.md").read_text()
    for name in ("jax", *FORMATS):
        assert f"| `{name}` |" in page, name
