"""What the compiler's refusals become."""

import pytest

from unitoken_jax.parallel.topology import parse
from unitoken_jax.plan.ahead import TooLargeError, refusal

TOO_LARGE = "RESOURCE_EXHAUSTED: Ran out of memory "


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        (
            f"{TOO_LARGE}in memory space hbm. Used 120.50G of 95.74G hbm. Exceeded",
            120.5,
        ),
        (
            f"{TOO_LARGE}on HBM, the total memory required for HLO temporaries "
            "(190.11G) exceeds available HBM (95.74G).",
            190.1,
        ),
    ],
)
def test_a_step_that_is_too_large_has_its_size(message, gib):
    error = refusal(message, parse("v5p:4x4x4"))
    assert isinstance(error, TooLargeError)
    assert error.needed == pytest.approx(gib * 2**30, rel=1e-3)
    assert str(error).startswith(
        f"the step of {gib:.1f} GiB does not fit the 95 GiB of a v5p chip: "
    )


def test_another_refusal_is_no_matter_of_size():
    error = refusal("INTERNAL: Mosaic failed\nand more", parse("v5e:2x2"))
    assert not isinstance(error, TooLargeError)
    assert str(error) == "the compiler refuses the step: INTERNAL: Mosaic failed"
