"""The planner's check of itself: it passes with libtpu, and it can fail."""

import pytest

from unitoken_jax.config import UserError
from unitoken_jax.parallel import topology
from unitoken_jax.plan import selfcheck
from unitoken_jax.plan.selfcheck import Check


@pytest.mark.skipif(not topology.is_available(), reason="libtpu is not installed")
def test_products_of_every_chip_run_near_the_peak() -> None:
    lines = list(selfcheck.lines())
    assert len(lines) == len(selfcheck.TOPOLOGIES) * len(selfcheck.SIZES)
    assert lines[0].startswith("v4: a product of 4096 cubed at ")


@pytest.mark.parametrize(
    ("share", "flops", "message"),
    [
        (1.2, 1.0, "120% of the peak"),
        (0.3, 1.0, "30% of the peak"),
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
