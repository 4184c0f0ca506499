"""Whatever is set on the command line ends in a config or in a sentence."""

import logging

import overrides
import pytest
from hypothesis import HealthCheck, Phase, given, settings

_KEPT = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def _check(chosen: list[tuple[str, str | bool]]) -> None:
    logging.disable(logging.CRITICAL)
    try:
        said = overrides.attempt(chosen)
    finally:
        logging.disable(logging.NOTSET)
    if isinstance(said, str):
        assert said.strip()
        assert len(said) < 4000


@given(overrides.overrides())
@settings(_KEPT, max_examples=60)
def test_overrides_end_in_a_config_or_a_sentence(chosen) -> None:
    _check(chosen)


@pytest.mark.slow
@given(overrides.overrides())
@settings(_KEPT, max_examples=2000)
def test_thousands_of_overrides_end_in_a_config_or_a_sentence(chosen) -> None:
    _check(chosen)


def test_the_quickstart_as_it_is_passes() -> None:
    assert not isinstance(overrides.attempt([]), str)
