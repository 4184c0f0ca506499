"""The published ViTamin-L with hashed weights: memory, and the whole is its parts."""

import os
import subprocess
import sys
from pathlib import Path

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
