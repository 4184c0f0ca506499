"""docs/networks.md lists every network and format, within the bars."""

from pathlib import Path

import networks
import pytest
from networks import PAGE, ROWS

from unitoken_jax.convert.formats import FORMATS
from unitoken_jax.convert.formats import networks as known_networks

ROOT = Path(__file__).parents[1]
BARS = {"forward": 1e-5, "gradient": 1e-4}


def test_the_page_is_up_to_date():
    page = PAGE.read_text("utf-8")
    assert page == networks.render(networks.read(page)), networks.__doc__


def test_everything_is_within_the_bars():
    deviations = networks.read(PAGE.read_text("utf-8"))
    for (name, kind), deviation in deviations.items():
        assert deviation <= BARS[kind], (name, kind)


def test_no_network_and_no_format_is_left_out():
    assert {kind for row in ROWS for kind in row.kinds} == set(known_networks())
    assert {name for row in ROWS for name in row.formats} == set(FORMATS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_name_what_exists(row):
    assert (ROOT / f"unitoken_jax/models/{row.module}.py").is_file()
    texts = ""
    for test in row.tests:
        path, name = test.split("::")
        text = (ROOT / path).read_text("utf-8")
        assert f"def {name.split('[')[0]}" in text, test
        texts += text
    texts += (ROOT / "tests/convert/test_exchange.py").read_text("utf-8")
    texts += (ROOT / "tests/models/test_decoder.py").read_text("utf-8")
    for number in row.parameters.values():
        assert str(number) in texts.replace("_", ""), f"{number:_}"


def test_a_page_comes_back():
    lines = [
        '{"test": "tests/models/test_vqgan.py::test_a", "kind": "forward",'
        ' "deviation": 3e-6}',
        '{"test": "tests/models/test_vqgan.py::test_b", "kind": "forward",'
        ' "deviation": 4e-7}',
        '{"test": "tests/other.py::test_b", "kind": "gradient", "deviation": 1.0}',
    ]
    found = networks.collect(lines)
    assert found == {("Chameleon's VQGAN", "forward"): 3e-6}
    assert networks.read(networks.render(found)) == found
