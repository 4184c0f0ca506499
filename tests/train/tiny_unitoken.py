"""A tiny UniToken with packed rows to train it on, without a data set."""

import numpy as np

ROWS, LENGTH, SLOTS = 8, 48, 4
MODEL = {
    "kind": "unitoken",
    "decoder": {
        "vocab_size": 40,
        "hidden": 32,
        "intermediate": 48,
        "layers": 2,
        "heads": 8,
        "kv_heads": 8,
        "head_dim": 4,
    },
    "vision": {"hidden": 16, "mlp": 24, "layers": 1, "heads": 8, "image": 8}
    | {"patch": 4, "head": False},
    "first_image_code": 4,
    "last_image_code": 19,
}


def batch(step: int) -> dict[str, np.ndarray]:
    """Return rows of two segments and padding, the first with an image."""
    rng = np.random.default_rng(step)
    segments = np.zeros((ROWS, LENGTH), np.int32)
    positions = np.zeros((ROWS, LENGTH), np.int32)
    slots = np.full((ROWS, LENGTH), -1, np.int32)
    for row in range(ROWS):
        first, second = 20 + row, 40 + row % 3
        segments[row, :first], segments[row, first:second] = 1, 2
        positions[row, :first] = np.arange(first)
        positions[row, first:second] = np.arange(second - first)
        slots[row, 3 : 3 + SLOTS] = np.arange(SLOTS)
    targets = rng.integers(0, 40, (ROWS, LENGTH), np.int32)
    return {
        "tokens": rng.integers(0, 40, (ROWS, LENGTH), np.int32),
        "segment_ids": segments,
        "positions": positions,
        "targets": np.where((segments > 0) & (slots < 0), targets, -1).astype(np.int32),
        "feature_index": slots,
        "pixels": rng.integers(0, 256, (ROWS, 1, 8, 8, 3), np.uint8),
    }
