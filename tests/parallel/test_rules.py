"""Axis names to mesh axes: strict, first come first served, reported."""

import logging

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from unitoken_jax.parallel import rules
from unitoken_jax.parallel.mesh import MeshConfig, make_mesh
from unitoken_jax.parallel.rules import RULES, ShardingError, constrain, partition


@pytest.fixture
def mesh():
    return make_mesh(MeshConfig(fsdp=2, tensor=2, data=2))


def test_every_rule_names_axes_of_the_mesh(mesh):
    assert {axis for rule in RULES.values() for axis in rule.mesh} <= set(
        mesh.axis_names
    )


def test_axes_of_size_one_are_left_out(mesh):
    spec = partition(("batch", "length", "heads", None), (8, 6, 4, 3), mesh)
    assert spec == PartitionSpec(("data", "fsdp"), None, "tensor", None)


def test_a_mesh_axis_is_used_once(mesh):
    spec = partition(("embed", "embed", "mlp", "vocab"), (4, 4, 4, 4), mesh)
    assert spec == PartitionSpec("fsdp", None, "tensor", None)


def test_unknown_names_raise_with_the_nearest(mesh):
    with pytest.raises(ShardingError, match=r"unknown axis 'embbed'.*'embed'"):
        partition(("embbed",), (4,), mesh)
    with pytest.raises(ShardingError, match="2 axis names"):
        partition(("embed", "mlp"), (4,), mesh)


def test_a_remainder_is_an_error_unless_the_rule_allows_it(mesh, caplog):
    with pytest.raises(ShardingError, match="'heads' of 3 is not divisible by the 2"):
        partition(("heads",), (3,), mesh, "parameter a/b")
    rules._report.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert partition(("embed",), (3,), mesh, "parameter a/b") == PartitionSpec(None)
        partition(("embed",), (3,), mesh, "parameter a/b")
    assert caplog.messages == [
        "parameter a/b of shape (3,): axis 'embed' of 3 is not divisible by the 2 "
        "shards of mesh axes fsdp; it stays whole"
    ]


def test_a_remainder_leaves_the_last_of_several_axes_out(mesh, caplog):
    rules._report.cache_clear()
    with caplog.at_level(logging.WARNING):
        spec = partition(("batch", "length"), (6, 4), mesh)
    assert spec == PartitionSpec("data", None)
    (message,) = caplog.messages
    assert message.endswith(
        "shards of mesh axes data, fsdp; it is divided over data only"
    )


def test_views_take_the_devices_of_a_row_from_its_length():
    mesh = make_mesh(MeshConfig(fsdp=2, sequence=4))
    names = ("views", "length", "width")
    shared = partition(names, (8, 4, 2), mesh)
    assert shared == PartitionSpec(("fsdp", "sequence"), None, None)
    assert partition(names, (6, 4, 2), mesh) == PartitionSpec("fsdp", "sequence", None)


def test_shardings_of_a_tree_name_the_parameter(mesh):
    axes = {"up": {"kernel": ("embed", "mlp")}}
    shapes = {"up": {"kernel": jax.ShapeDtypeStruct((4, 8), jnp.float32)}}
    found = rules.shardings(axes, shapes, mesh)
    expected = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    assert found == {"up": {"kernel": expected}}
    with pytest.raises(ShardingError, match="parameter up/kernel names"):
        rules.shardings({"up": {"kernel": ("embed", "mpl")}}, shapes, mesh)


def test_batches_are_divided_along_their_first_axis(mesh):
    batch = {"image": jax.ShapeDtypeStruct((8, 4, 4, 3), jnp.uint8)}
    (sharding,) = rules.batch_shardings(batch, mesh).values()
    assert sharding.spec == PartitionSpec(("data", "fsdp"), None, None, None)


def test_constraints_are_in_the_program_under_a_mesh_only(mesh):
    x = jnp.zeros((8, 4, 2))

    def traced():
        step = jax.make_jaxpr(lambda x: constrain(x, "batch", "length", "width"))
        return str(step(x))

    assert "sharding_constraint" not in traced()
    with jax.set_mesh(mesh):
        assert "sharding_constraint" in traced()
