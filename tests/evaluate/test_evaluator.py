"""What all evaluators share: batches, the choice of examples."""

import numpy as np

from unitoken_jax.evaluate.evaluator import batches, evenly_spaced


def test_batches_have_one_size_and_say_what_counts():
    found = [(b["a"].tolist(), n) for b, n in batches({"a": np.arange(5)}, 2)]
    assert found == [([0, 1], 2), ([2, 3], 2), ([4, 4], 1)]


def test_examples_are_spread_over_all():
    assert evenly_spaced(10, 4) == [0, 3, 6, 9]
    assert evenly_spaced(2, 5) == [0, 1]
    assert evenly_spaced(0, 5) == []
