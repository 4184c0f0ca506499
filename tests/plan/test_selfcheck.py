"""The planner's check of itself: it passes with libtpu, and it can fail."""

import dataclasses

import pytest

from unitoken_jax.config import UserError
from unitoken_jax.parallel import topology
from unitoken_jax.parallel.chips import CHIPS
from unitoken_jax.plan import selfcheck
from unitoken_jax.plan.selfcheck import Check


@pytest.mark.skipif(not topology.is_available(), reason="libtpu is not installed")
def test_products_of_every_chip_run_near_the_peak() -> None:
    lines = list(selfcheck.lines())
    assert len(lines) == 2 * len(selfcheck.TOPOLOGIES)
    assert lines[0].startswith("v4: a product of 4096 cubed at ")


@pytest.mark.parametrize(
    ("share", "flops", "message"),
    [
        (0.94, 1.0, "94% of the peak, not at 88%"),
        (0.82, 1.0, "82% of the peak, not at 88%"),
        (0.9, 2.0, "FLOPs"),
    ],
)
def test_what_cannot_be_is_refused(monkeypatch, share, flops, message) -> None:
    monkeypatch.setattr(
        selfcheck,
        "run",
        lambda chip, size: Check(chip, size, share, flops * 2.0 * size**3),
    )
    with pytest.raises(UserError, match=message):
        list(selfcheck.lines())


def test_a_wrong_clock_is_refused(monkeypatch) -> None:
    """It cancels out of the shares."""
    monkeypatch.setattr(
        selfcheck,
        "run",
        lambda chip, size: Check(
            chip, size, selfcheck.SHARES[chip][size], 2.0 * size**3
        ),
    )
    assert len(list(selfcheck.lines())) == 8
    slow = dataclasses.replace(CHIPS["v5p"], clock=1.74e9)
    monkeypatch.setitem(selfcheck.CHIPS, "v5p", slow)
    with pytest.raises(UserError, match=r"v5p: a peak of 456\.1 TFLOP/s, but 459 are"):
        list(selfcheck.lines())
