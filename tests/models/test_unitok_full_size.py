"""The published ViTamin-L with hashed weights: memory, and the numbers of its towers.

The encoder was run by timm 1.0.8 (with the tanh GELU that UniTok puts into its gated
MLPs), the text tower by open_clip 3.3.0.
"""

import os
import subprocess
import sys
from pathlib import Path

import golden
import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("full_size_unitok.py")
ROOT = SCRIPT.parents[2]
BAR_BYTES = 8 * 2**30


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("unitok") / "found.npz"
    command = [sys.executable, str(SCRIPT), str(path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    with np.load(path) as file:
        return dict(file)


@pytest.mark.slow
def test_fits_into_eight_gibibytes(found):
    print(f"peak {found['peak'] / 2**30:.2f} GiB")
    assert found["peak"] < BAR_BYTES


@pytest.mark.slow
def test_encoder_is_timms_and_text_tower_open_clips(found):
    with np.load(golden.DIRECTORY / "unitok_hashinit.npz") as theirs:
        golden.assert_close(found["tokens"][:, ::8, ::16], theirs["tokens"])
        golden.assert_close(found["text"], theirs["text"])


@pytest.mark.slow
def test_the_whole_is_its_parts(found):
    assert found["codes"].shape == (2, 256, 8)
    assert 0 <= found["codes"].min() <= found["codes"].max() < 4096
    np.testing.assert_array_equal(found["forward_codes"], found["codes"])
    rebuilt = found["forward_reconstruction"].clip(-1, 1)
    assert rebuilt.shape == (2, 256, 256, 3)
    np.testing.assert_allclose(rebuilt, found["decoded"], atol=1e-4)
    for name in ("image", "text"):
        lengths = np.linalg.norm(found[f"forward_{name}_features"], axis=-1)
        np.testing.assert_allclose(lengths, 1, rtol=1e-5)
