"""Sweeps as lists of points."""

import pytest

from launch.sweep.config import (
    SweepConfig,
    check_overrides,
    points,
    split_overrides,
)
from unitoken_jax.config import ConfigError, build

NODE = {
    "name": "s",
    "config": "a.py",
    "set": ("x=1",),
    "axes": (
        {"name": "rate", "values": ({"label": "1:2", "set": ("r=1",)}, {"label": "b"})},
        {"name": "kind", "values": ({"label": "k", "config": "b.py:word"},)},
    ),
    "seeds": (3, 4),
    "seed_fields": ("seed", "other.seed"),
}


def sweep(**changes) -> SweepConfig:
    return build(SweepConfig, NODE | changes)


def test_every_combination_with_every_seed() -> None:
    found = points(sweep())
    assert [point.name for point in found] == [
        "1-2_k_seed3",
        "b_k_seed3",
        "1-2_k_seed4",
        "b_k_seed4",
    ]
    assert found[0].labels == {"rate": "1:2", "kind": "k"}
    assert found[0].config == "b.py:word"
    assert found[0].set == ("x=1", "r=1", "seed=3", "other.seed=3")


def test_some_of_them() -> None:
    chosen = points(sweep(), ["rate=b", "seed=4"])
    assert [point.name for point in chosen] == ["b_k_seed4"]
    assert len(points(sweep(), ["rate=b", "rate=1:2"])) == 4


@pytest.mark.parametrize(
    ("only", "sentence"),
    [("rat=b", "did you mean 'rate'"), ("rate=c", "no value 'c'")],
)
def test_unknown_choices(only, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        points(sweep(), [only])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed_fields": ()}, "several seeds need seed_fields"),
        ({"seeds": (1, 1)}, "each once"),
        ({"seeds": ()}, "seeds must be named"),
        ({"page": {"color": "rat"}}, "page.color: no axis 'rat'"),
        ({"axes": ({"name": "seed", "values": ({"label": "a"},)},)}, "must differ"),
        ({"axes": ({"name": "a", "values": ()},)}, "different labels"),
        ({"aces": ()}, "aces: unknown name; did you mean 'axes'"),
        ({"name": ""}, "is no name of a file or folder"),
        ({"name": "../a"}, "is no name of a file or folder"),
    ],
)
def test_wrong_configs(changes, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        sweep(**changes)


def test_names_that_files_cannot_tell_apart() -> None:
    axis = {"name": "a", "values": ({"label": "1:2"}, {"label": "1/2"})}
    with pytest.raises(ConfigError, match="two points are named '1-2_seed0'"):
        points(sweep(axes=(axis,), seeds=(0,)))


def test_fields_that_are_set_at_every_point_win() -> None:
    (point, *_) = points(sweep(), fields=("x=2", "y.z=3"))
    assert point.set == ("r=1", "seed=3", "other.seed=3", "x=2", "y.z=3")
    (point, *_) = points(sweep(set=("x.a=1", "x.b=2")), fields=("x=None",))
    assert point.set == ("r=1", "seed=3", "other.seed=3", "x=None")


def test_what_the_command_line_sets_is_of_the_sweep_or_of_its_experiment() -> None:
    given = [("seeds", "5,"), ("stages.a.steps", "6"), ("page.x", "a"), ("b", True)]
    own, fields = split_overrides(given)
    assert own == [("seeds", "5,"), ("page.x", "a")]
    assert fields == ["stages.a.steps=6", "b=True"]


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("r=2", "r is varied by axis 'rate': choose with --only rate="),
        ("r.a=2", "varied by axis 'rate'"),
        ("other=None", "other is varied by seed: choose with --config.seeds="),
    ],
)
def test_what_tells_points_apart_is_not_set_at_all(field, sentence) -> None:
    check_overrides(sweep(), ["x=1", "rr=1"])
    with pytest.raises(ConfigError, match=sentence):
        check_overrides(sweep(), [field])
