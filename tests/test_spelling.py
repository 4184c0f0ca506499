"""Identifiers are American English, as those of JAX, Flax and the papers are."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = (
    *("unitoken_jax", "data_pipelines", "configs", "launch"),
    *("tests", "tests_torch", "benchmarks"),
)
BRITISH = re.compile(
    r"colour|neighbour|behaviour|favour|centre|grey|catalogue|licence"
    r"|(quanti|normali|initiali|tokeni|recogni|optimi|summari|seriali|memori|visuali"
    r"|organi|generali|regulari|parallel|synchroni|materiali|minimi|maximi)s(e|ed|es|er"
    r"|ers|ing|ation|ations)(?![a-z])"
)
# Names that others have given: of published files, classes and packages.
PUBLISHED: frozenset[str] = frozenset()


def _british(text: str) -> list[str]:
    """Return the British identifiers of a program."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    names = {token.string for token in tokens if token.type == tokenize.NAME}
    return sorted(n for n in names - PUBLISHED if BRITISH.search(n.lower()))


def _files() -> list[str]:
    found = (path for name in FOLDERS for path in (ROOT / name).rglob("*.py"))
    return sorted(str(path.relative_to(ROOT)) for path in found)


@pytest.mark.parametrize("folder", FOLDERS)
def test_identifiers_are_american(folder):
    for name in _files():
        if name.startswith(f"{folder}/"):
            found = _british((ROOT / name).read_text("utf-8"))
            assert not found, f"{name}: {', '.join(found)}"
            assert not BRITISH.search(Path(name).stem), name


def test_the_test_notices():
    assert _british("colour_of = Normaliser(centre_crop)  # grey\n") == [
        *("Normaliser", "centre_crop", "colour_of"),
    ]
    assert _british("noise = precise + promise + parallel + otherwise\n") == []
