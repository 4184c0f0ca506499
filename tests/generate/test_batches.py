"""Batches of few sizes, no larger than what is asked."""

import numpy as np
import pytest

from unitoken_jax.generate.batches import run_batched


@pytest.mark.parametrize(
    ("groups", "widths"),
    [
        ([[0]], [1]),
        ([[0, 1, 2]], [4]),
        ([list(range(16))], [16]),
        ([list(range(37))], [16, 16, 16]),
        ([[3, 1], [0], [4, 2, 5, 6, 7]], [2, 1, 8]),
    ],
)
def test_a_batch_is_as_large_as_its_group_needs(groups, widths):
    seen, done = [], []

    def run(chosen):
        seen.append(len(chosen))
        return chosen * 10

    found = run_batched(run, groups, 16, None, done.append)
    assert seen == widths
    assert found.tolist() == [10 * i for i in range(sum(map(len, groups)))]
    assert sum(done) == len(found)


def test_a_size_that_is_no_power_of_two_is_the_most():
    seen = []

    def run(chosen):
        seen.append(len(chosen))
        return chosen

    assert run_batched(run, [np.arange(7)], 5, None).tolist() == list(range(7))
    assert seen == [5, 5]
