"""Made-up features of pictures, and what torch-fidelity 0.4.0 finds between them."""

import numpy as np

KID = {"subsets": 20, "size": 100, "seed": 2020}
# tests_torch/test_fidelity.py computes these again.
GOLDEN = {
    "fid": 1.11775108,
    "kid": 0.0255134821,
    "inception_score": (2.96984259, 0.165576251),
    "precision": 0.942307711,
    "recall": 0.636666656,
}


def sets():
    """Real and generated features [300, 24] and [260, 24], logits [260, 17]."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(24, 24)) / 5
    real = rng.normal(size=(300, 24)) @ mixing
    generated = 0.9 * rng.normal(size=(260, 24)) @ mixing + 0.1
    logits = 2 * rng.normal(size=(260, 17))
    return tuple(x.astype(np.float32) for x in (real, generated, logits))
