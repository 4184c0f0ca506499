"""Golden tensors: outputs of the published PyTorch code, and how to compare."""

import json
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


def assert_close(ours, theirs, tolerance=1e-5):
    """Largest deviation within `tolerance` of the largest value."""
    theirs = np.asarray(theirs)
    bound = tolerance * max(1.0, np.abs(theirs).max())
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=bound)


def assert_gradients(ours, theirs, tolerance=1e-4):
    """Every tensor within `tolerance` of its own largest value.

    Gradients that vanish by symmetry (a bias in front of a softmax or a norm) are
    rounding noise on both sides, far below the floor.
    """
    assert set(ours) == set(theirs)
    floor = 1e-6 * max(np.abs(array).max() for array in theirs.values())
    for key, array in theirs.items():
        bound = tolerance * np.abs(array).max() + floor
        np.testing.assert_allclose(ours[key], array, rtol=0, atol=bound, err_msg=key)
