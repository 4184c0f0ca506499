"""Numbers in words."""

import math

import pytest

from unitoken_jax.report import quantities

THIN = "\u202f"
NO_BREAK = "\u00a0"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (3, "3"),
        (12345, f"12{THIN}345"),
        (21.374, "21.37"),
        (123.44, "123.4"),
        (15872.3, f"15{THIN}872"),
        (0.6843, "0.684"),
        (0.0512, "0.0512"),
        (0.0002, "2e−4"),
        (-1.5, "−1.50"),
        (123456789, "1.23e8"),
        (math.nan, "not finite"),
        (math.inf, "not finite"),
    ],
)
def test_number(value, words):
    assert quantities.number(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0.5, "0.5"), (20.0, "20"), (0.0002, "2e−4"), (0.25, "0.25")]
)
def test_tick(value, words):
    assert quantities.tick(value) == words


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.0, 0.2, 0.4], ["0", "0.2", "0.4"]),
        ([-10.0, -9.998, -9.996], ["−10.000", "−9.998", "−9.996"]),
        ([9.95, 10.0, 10.05], ["9.95", "10.00", "10.05"]),
        ([0.0, 500.0, 1000.0], ["0", "500", f"1{THIN}000"]),
        ([0.0, 5e-5, 1e-4], ["0", "5e−5", "1e−4"]),
        ([0.0, 1e7, 2e7], ["0", "1e7", "2e7"]),
        ([7.0], ["7"]),
    ],
)
def test_ticks_tell_neighbors_apart(values, words):
    assert quantities.ticks(values) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (4.25, "4.2 s"),
        (59.6, "1 min 00 s"),
        (192, "3 min 12 s"),
        (3599.7, "1 h 00 min"),
        (7512, "2 h 05 min"),
    ],
)
def test_duration(seconds, words):
    assert quantities.duration(seconds).replace(NO_BREAK, " ") == words


@pytest.mark.parametrize(
    ("count", "words"), [(512, "512 B"), (2**20, "1 MiB"), (1.5 * 2**40, "1536.00 GiB")]
)
def test_size(count, words):
    assert quantities.size(count) == words


def test_percent_of_a_fraction_and_of_an_interval():
    assert quantities.percent(0.4171) == f"41.7{THIN}%"
    assert quantities.percent(0.35, 0.47) == f"35.0 to 47.0{THIN}%"
    assert quantities.percent(math.nan) == "not finite"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("psnr", "PSNR"),
        ("image_to_text/recall@1", "Image to text: recall@1"),
        ("cycle/what", "Cycle accuracy: what"),
        ("dead_codes", "Dead codes"),
        ("accuracy_new_concepts/color", "Accuracy, new concepts: color"),
        ("drawings/frechet_alexnet", "Drawings: Fréchet distance, AlexNet"),
    ],
)
def test_title(key, words):
    assert quantities.title(key) == words


def test_numbers_are_told_from_truth_values():
    assert quantities.is_number(1.5)
    assert not quantities.is_number(True)
    assert not quantities.is_number("1")
