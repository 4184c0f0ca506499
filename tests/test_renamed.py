"""Old names: refused in configs with the new one, read where old runs wrote them."""

import ast
import dataclasses
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unitoken_jax import renamed
from unitoken_jax.config import ConfigError, build, kinds, schema, set_fields

ROOT = Path(__file__).parent.parent
FOLDERS = ("unitoken_jax", "data_pipelines", "launch")


@dataclasses.dataclass(frozen=True)
class Painting:
    """What is called otherwise than before."""

    color: int = 1
    kind: Literal["small", "large"] = "small"


@dataclasses.dataclass(frozen=True)
class Both:
    """A dataclass that has the old name as well, for something else."""

    tint: int = 1
    color: int = 2


@pytest.fixture(autouse=True)
def _tables(monkeypatch):
    monkeypatch.setattr(renamed, "FIELDS", {"tint": "color"})
    monkeypatch.setattr(schema, "FIELDS", renamed.FIELDS)
    monkeypatch.setattr(renamed, "KINDS", {"big": "large"})
    monkeypatch.setattr(kinds, "KINDS", renamed.KINDS)
    parameters = {"quantiser": "quantizer", "head/old": "tail"}
    monkeypatch.setattr(renamed, "PARAMETERS", parameters)


def test_an_old_field_is_refused_with_its_new_name():
    with pytest.raises(ConfigError) as caught:
        build(Painting, {"tint": 3}, "config.model")
    assert str(caught.value) == "config.model.tint is called config.model.color now."


def test_an_old_kind_is_refused_with_its_new_name():
    with pytest.raises(ConfigError, match=r"^config.kind=big is called config.kind=la"):
        build(Painting, {"kind": "big"})
    with pytest.raises(ConfigError, match=r"x.kind=big is called x.kind=large now\."):
        kinds.refuse_old_kind("big", ["large"], "x.kind")
    kinds.refuse_old_kind("big", ["big", "large"], "x.kind")
    kinds.refuse_old_kind(["big"], ["large"], "x.kind")


def test_metrics_of_an_old_group_have_the_name_of_today(monkeypatch):
    monkeypatch.setattr(renamed, "METRICS", {"side": "discriminator"})
    assert renamed.metric("side/hinge") == "discriminator/hinge"
    assert renamed.metric("side") == "side"
    assert renamed.metric("aside/hinge") == "aside/hinge"


def test_where_the_old_name_means_something_it_stays():
    assert build(Both, {"tint": 3}).tint == 3


def test_an_override_with_an_old_name_is_refused():
    node = {"color": 1}
    set_fields(node, [("tint", "5")])
    with pytest.raises(ConfigError, match=r"config.tint is called config.color now"):
        build(Painting, node)


def test_what_an_old_run_wrote_is_read():
    node = {
        "tint": 1,
        "stages": {
            "tint": {
                "model": {"kind": "big", "inner": {"tint": None}},
                "init": {"quantiser": "first:quantiser/usage", "": "quantiser"},
                "optimizer": {
                    "no_decay": ".*/(bias|quantiser)",
                    "groups": {
                        "tint": {"pattern": "(quantiser|head/old)/.*"},
                        "rest": {"pattern": ".*", "exclude": "requantiser"},
                    },
                },
            }
        },
    }
    stage = {
        "model": {"kind": "large", "inner": {"color": None}},
        "init": {"quantizer": "first:quantizer/usage", "": "quantiser"},
        "optimizer": {
            "no_decay": ".*/(bias|quantizer)",
            "groups": {
                "tint": {"pattern": "(quantizer|tail)/.*"},
                "rest": {"pattern": ".*", "exclude": "requantiser"},
            },
        },
    }
    read, said = renamed.translate(node)
    assert read == {"color": 1, "stages": {"tint": stage}}
    assert said[:3] == [
        "tint → color",
        "stages.tint.model.kind=big → large",
        "stages.tint.model.inner.tint → color",
    ]
    assert len(said) == 6
    assert renamed.translate(read) == (read, [])


def test_both_names_stay_for_build_to_refuse():
    node = {"tint": 1, "color": 2}
    assert renamed.translate(node) == (node, [])


@given(st.recursive(st.integers(), lambda x: st.dictionaries(st.text(), x, max_size=3)))
def test_a_config_of_today_is_read_as_it_is(node):
    node = {"outer": node}
    if "tint" not in repr(node):
        assert renamed.translate(node) == (node, [])


def test_no_config_has_a_field_of_an_old_name(monkeypatch):
    monkeypatch.undo()
    fields = {
        (statement.target.id, path.relative_to(ROOT), node.name)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config")
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
    }
    assert [field for field in fields if field[0] in renamed.FIELDS] == []


def test_no_new_name_is_an_old_one(monkeypatch):
    monkeypatch.undo()
    for table in (renamed.FIELDS, renamed.KINDS, renamed.PARAMETERS):
        assert not set(table.values()) & set(table)
