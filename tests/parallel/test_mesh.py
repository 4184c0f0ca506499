"""Meshes of eight CPU devices, and sizes that cannot be."""

from types import SimpleNamespace

import jax
import pytest
from jax.sharding import AxisType

from unitoken_jax.parallel.mesh import AXES, MeshConfig, MeshError, make_mesh


def test_one_axis_takes_what_is_left():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    assert mesh.axis_names == AXES
    assert tuple(mesh.shape.values()) == (1, 2, 2, 2, 1)
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_inner_axes_are_neighbors_and_slices_far_apart():
    mesh = make_mesh(MeshConfig(slice=2, tensor=2))
    ids = [device.id for device in mesh.devices[1, 0, 0, :, 0]]
    assert ids == [4, 5]


def test_slices_are_those_of_the_devices():
    chips = [SimpleNamespace(platform="tpu", slice_index=n // 2) for n in range(4)]
    with pytest.raises(MeshError, match=r"of 2 slice\(s\); set mesh.slice=2"):
        make_mesh(MeshConfig(data=4), chips)
    with pytest.raises(MeshError, match=r"of 1 slice\(s\); set mesh.slice=1"):
        make_mesh(MeshConfig(slice=2), chips[:2])
    with pytest.raises(MeshError, match=r"mesh.slice is 4, but .* of 2 slice"):
        make_mesh(MeshConfig(slice=-1, data=1), chips)


def test_slices_are_named_before_sizes_that_would_be_changed_in_vain():
    chips = [SimpleNamespace(platform="tpu", slice_index=n // 4) for n in range(8)]
    with pytest.raises(MeshError, match=r"set mesh.slice=2"):
        make_mesh(MeshConfig(data=4), chips)


def test_a_part_of_the_devices():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert mesh.size == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(fsdp=3), "needs a multiple of 3 devices, there are 8"),
        (MeshConfig(data=2, fsdp=2), "needs 4 devices, there are 8"),
        (MeshConfig(fsdp=-1), "one of them may be -1"),
        (MeshConfig(tensor=0), "sizes are positive"),
    ],
)
def test_impossible_sizes_are_sentences(config, message):
    with pytest.raises(MeshError, match=message):
        make_mesh(config)
