"""Names of topologies, and which axes are rings."""

import pytest

from unitoken_jax.parallel import topology
from unitoken_jax.parallel.topology import TopologyError


def test_reads_names():
    found = topology.parse("v5p:4x4x8", slices=2)
    assert (found.chip.name, found.shape, found.chips) == ("v5p", (4, 4, 8), 256)
    assert found.name == "v5p:4x4x8"
    assert found.chip.peak == pytest.approx(459e12, rel=0.003)


@pytest.mark.parametrize(
    ("name", "wrapped"),
    [
        ("v5p:4x4x4", (True, True, True)),
        ("v5p:2x2x4", (False, False, False)),
        ("v5e:16x16", (True, True)),
        ("v5e:8x16", (False, True)),
    ],
)
def test_whole_cubes_and_rows_of_16_are_rings(name: str, wrapped: tuple[bool, ...]):
    assert topology.parse(name).wrapped == wrapped


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5litepod-8", "is not known; write a generation"),
        ("v9:2x2", "is not known"),
        ("v5p:4x4", "has 3 axes"),
        ("v5e:2x2x2", "has 2 axes"),
    ],
)
def test_others_are_sentences(name: str, message: str):
    with pytest.raises(TopologyError, match=message):
        topology.parse(name)


def test_without_libtpu_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(topology, "is_available", lambda: False)
    with pytest.raises(TopologyError, match=r"pip install -r requirements-plan\.txt"):
        topology.devices(topology.parse("v5e:2x2"))
