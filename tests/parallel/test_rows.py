"""Which rows a process feeds, whatever the order of the devices."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from data_pipelines.errors import LoaderError
from data_pipelines.loader import HostShard, equal_part
from unitoken_jax.parallel.mesh import AXES, MeshConfig, make_mesh
from unitoken_jax.parallel.rows import local_rows, place

BATCH = {
    "tokens": np.arange(48, dtype=np.int32).reshape(16, 3),
    "pixels": np.arange(32, dtype=np.uint8).reshape(16, 1, 2),
}


@pytest.mark.parametrize(
    "sizes", [{}, {"fsdp": 4}, {"tensor": 2, "sequence": 4}, {"slice": 2, "tensor": 2}]
)
def test_one_process_feeds_all_rows_in_order(sizes):
    mesh = make_mesh(MeshConfig(**sizes))
    rows = local_rows(16, mesh)
    assert rows.tolist() == list(range(16))
    placed = place(BATCH, 16, rows, mesh)
    for name, array in placed.items():
        np.testing.assert_array_equal(array, BATCH[name])
        shards = mesh.size // (mesh.shape["tensor"] * mesh.shape["sequence"])
        assert array.addressable_shards[0].data.shape[0] == 16 // shards


def test_rows_follow_the_devices_not_their_order():
    devices = np.asarray(jax.devices())[[0, 4, 1, 5, 2, 6, 3, 7]].reshape(1, 8, 1, 1, 1)
    mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 5)
    placed = place(BATCH, 16, local_rows(16, mesh), mesh)["tokens"]
    by_device = {shard.device.id: shard.data for shard in placed.addressable_shards}
    np.testing.assert_array_equal(by_device[4], BATCH["tokens"][2:4])


def test_a_host_builds_any_part_of_every_batch():
    share = HostShard(8, [1, 2, 6])
    assert [share[i][1] for i in range(6)] == [1, 2, 6, 9, 10, 14]
    assert list(equal_part(8, 1, 4)) == [2, 3]
    with pytest.raises(LoaderError, match="host 0 of 3 cannot take an equal part"):
        equal_part(8, 0, 3)
