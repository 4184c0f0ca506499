"""Signals are noted where they arrive, and stay ignored where they are."""

import signal

import pytest

from unitoken_jax.runtime.preemption import Preemption, name


@pytest.fixture(autouse=True)
def handlers():
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted(number) -> None:
    before = signal.getsignal(number)
    with Preemption() as asked:
        assert name(asked.requested) is None
        signal.raise_signal(number)
        assert name(asked.requested) == number.name
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts() -> None:
    with Preemption() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked.requested == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_ignored_stays_ignored(number) -> None:
    """As a shell has a job in the background ignore Ctrl-C."""
    signal.signal(number, signal.SIG_IGN)
    with Preemption() as asked:
        signal.raise_signal(number)
        assert asked.requested == 0
    assert signal.getsignal(number) == signal.SIG_IGN
