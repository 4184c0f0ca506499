"""Golden tensors: outputs of the published PyTorch code, and how to compare.

With DEVIATIONS=FILE in the environment every comparison adds to that file a line of
JSON: the test, forward or gradient, and the largest deviation. docs/networks.md is made
of them (`tests/networks.py`).
"""

import json
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

DIRECTORY = Path(__file__).parents[1] / "golden"


def settings(case):
    return json.loads((DIRECTORY / f"{case}.json").read_text())


def tensors(case, kind):
    return load_file(DIRECTORY / f"{case}.{kind}.safetensors")


def channels_last(array):
    """[B, C, H, W] to [B, H, W, C]."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def record(kind, deviation):
    """Add a relative deviation, "forward" or "gradient", of the running test."""
    if path := os.environ.get("DEVIATIONS"):
        test = os.environ["PYTEST_CURRENT_TEST"].rsplit(" ", 1)[0]
        line = {"test": test, "kind": kind, "deviation": float(deviation)}
        with Path(path).open("a") as file:
            file.write(json.dumps(line) + "\n")


def assert_close(ours, theirs, tolerance=1e-5, least=1.0):
    """Largest deviation within `tolerance` of the largest value, or of `least`."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    scale = max(least, np.abs(theirs).max())
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)
    record("forward", np.abs(ours - theirs).max() / scale)


def assert_gradients(ours, theirs, tolerance=1e-4):
    """Every tensor within `tolerance` of its own largest value.

    Gradients that vanish by symmetry (a bias in front of a softmax or a norm) are
    rounding noise on both sides, far below the floor.
    """
    assert set(ours) == set(theirs)
    floor = 1e-6 * max(np.abs(array).max() for array in theirs.values())
    for key, array in theirs.items():
        largest = np.abs(array).max()
        bound = tolerance * largest + floor
        np.testing.assert_allclose(ours[key], array, rtol=0, atol=bound, err_msg=key)
        beyond = np.abs(ours[key] - array).max() - floor
        if largest > floor:
            record("gradient", max(beyond, 0) / largest)
