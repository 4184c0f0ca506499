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
# Files that hold British names still; none is added.
LEFT = frozenset(
    {
        "data_pipelines/images/decoding.py",
        "tests/convert/test_exchange.py",
        "tests/convert/test_table.py",
        "tests/data_pipelines/images/test_anyres.py",
        "tests/data_pipelines/images/test_images.py",
        "tests/data_pipelines/prepare/test_captions.py",
        "tests/data_pipelines/prepare/test_colors.py",
        "tests/data_pipelines/prepare/test_pictures.py",
        "tests/data_pipelines/prepare/test_questions.py",
        "tests/data_pipelines/prepare/test_scenes.py",
        "tests/evaluate/feature_networks/test_preprocessing.py",
        "tests/launch/sweep/stand_in.py",
        "tests/launch/sweep/test_runner.py",
        "tests/models/random_weights.py",
        "tests/ops/test_dropout.py",
        "tests/parallel/test_mesh.py",
        "tests/report/test_chart.py",
        "tests/report/test_quantities.py",
        "tests/test_renamed.py",
        "tests/train/test_chain.py",
        "tests_torch/test_transformers.py",
        "unitoken_jax/convert/published/chameleon.py",
        "unitoken_jax/convert/published/llamagen.py",
        "unitoken_jax/convert/published/unitok_mllm.py",
        "unitoken_jax/convert/published/unitoken.py",
        "unitoken_jax/models/decoder.py",
        "unitoken_jax/models/llamagen.py",
        "unitoken_jax/models/perceptual/inception.py",
        "unitoken_jax/models/unitok_mllm.py",
        "unitoken_jax/models/unitoken.py",
        "unitoken_jax/models/vitamin.py",
        "unitoken_jax/ops/adversarial.py",
        "unitoken_jax/ops/normalization.py",
        "unitoken_jax/ops/positions.py",
        "unitoken_jax/plan/search.py",
        "unitoken_jax/train/__main__.py",
        "unitoken_jax/train/chain.py",
    }
)


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
        if name.startswith(f"{folder}/") and name not in LEFT:
            found = _british((ROOT / name).read_text("utf-8"))
            assert not found, f"{name}: {', '.join(found)}"
            assert not BRITISH.search(Path(name).stem), name


def test_files_that_are_clean_leave_the_list():
    for name in LEFT:
        text = (ROOT / name).read_text("utf-8")
        assert _british(text) or BRITISH.search(Path(name).stem), name


def test_the_test_notices():
    assert _british("colour_of = Normaliser(centre_crop)  # grey\n") == [
        *("Normaliser", "centre_crop", "colour_of"),
    ]
    assert _british("noise = precise + promise + parallel + otherwise\n") == []
