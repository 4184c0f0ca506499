"""The `jax` format: slices in and out of Orbax checkpoints, restored by training."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.checkpoint import warm_start, weights_file
from unitoken_jax.checkpoint.reader import CheckpointError
from unitoken_jax.convert.checkpoints import (
    CheckpointReader,
    WeightsFileReader,
    read_config,
    write_checkpoint,
)
from unitoken_jax.convert.files.readers import SubtreeReader
from unitoken_jax.convert.tensors import TreeReader, WeightsError


def params():
    rng = np.random.default_rng(0)
    return {
        "decoder": {
            "layers": {"kernel": rng.normal(size=(3, 8, 5)).astype(ml_dtypes.bfloat16)},
            "norm": rng.normal(size=(5,)).astype(np.float32),
        },
        "scale": np.array(2.5, np.float32),
    }


class Stacked(TreeReader):
    """Says which parameters are stacks and that whole stacks are never asked for."""

    def stacked(self, path):
        return 1 if "layers" in path else 0

    def read(self, path, index):
        assert len(index) == self.stacked(path)
        return super().read(path, index)


def test_written_in_slices_and_restored_by_training(tmp_path):
    write_checkpoint(tmp_path / "out", Stacked(params()), {"kind": "toy", "layers": 3})
    restored, step = checkpoints.restore_params(tmp_path / "out")
    assert step == 0
    jax.tree.map(np.testing.assert_array_equal, restored, params())
    decoder, _ = checkpoints.restore_params(tmp_path / "out", "decoder")
    assert set(decoder) == {"layers", "norm"}
    assert read_config(tmp_path / "out")["model"] == {"kind": "toy", "layers": 3}


def test_a_file_of_weights_goes_both_ways_and_starts_a_training(tmp_path):
    path, again = tmp_path / "toy.safetensors", tmp_path / "again"
    write_checkpoint(path, TreeReader(params()), {"kind": "toy", "layers": 3})
    assert read_config(path)["model"] == {"kind": "toy", "layers": 3}
    found = WeightsFileReader(path)
    assert found.specs == TreeReader(params()).specs
    write_checkpoint(again, found, read_config(path)["model"])
    jax.tree.map(
        np.testing.assert_array_equal, checkpoints.restore_params(again)[0], params()
    )
    fresh = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params())
    places = jax.tree.map(lambda leaf: leaf.sharding, fresh)
    source = warm_start.resolve_source(str(path), tmp_path, {})
    started = warm_start.warm_start(fresh, places, {"all": source})
    jax.tree.map(np.testing.assert_array_equal, started, params())
    assert {leaf.dtype for leaf in jax.tree.leaves(started)} == {np.dtype("float32")}
    with pytest.raises(WeightsError, match="exists already"):
        write_checkpoint(path, TreeReader(params()), {"kind": "toy"})
    with pytest.raises(CheckpointError, match="nor a file of weights"):
        warm_start.resolve_source(str(tmp_path / "no.safetensors"), tmp_path, {})


def test_a_file_of_weights_says_whose_ids_it_knows(tmp_path):
    path, own = tmp_path / "toy.safetensors", tmp_path / "tokenizer.json"
    own.write_text('{"model": {"vocab": {"a": 0}}}')
    write_checkpoint(path, TreeReader(params()), {"kind": "toy"}, tokenizer=own)
    weights_file.check_vocabulary(path, own)
    own.write_text('{"model": {"vocab": {"b": 0}}}')
    with pytest.raises(CheckpointError, match="ids of another vocabulary"):
        weights_file.check_vocabulary(path, own)


def test_a_part_of_a_file_of_weights_is_started_from(tmp_path):
    path = tmp_path / "toy.safetensors"
    write_checkpoint(path, TreeReader(params()), {"kind": "toy"})
    fresh = {"body": jax.tree.map(lambda x: jnp.zeros(x.shape), params()["decoder"])}
    places = jax.tree.map(lambda leaf: leaf.sharding, fresh)
    source = warm_start.resolve_source(f"{path}:decoder", tmp_path, {})
    started = warm_start.warm_start(fresh, places, {"body": source})
    jax.tree.map(np.testing.assert_array_equal, started["body"], params()["decoder"])


def test_training_starts_from_a_conversion_in_its_own_type(tmp_path):
    write_checkpoint(tmp_path / "out", Stacked(params()), {"kind": "toy"})
    fresh = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params())
    places = jax.tree.map(lambda leaf: leaf.sharding, fresh)
    started = warm_start.warm_start(
        fresh, places, {"decoder": (tmp_path / "out", "decoder")}
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(started)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(
        started["decoder"]["layers"]["kernel"],
        params()["decoder"]["layers"]["kernel"].astype(np.float32),
    )
    assert started["scale"] == 0


def test_training_does_not_start_from_nan(tmp_path):
    broken = params()
    broken["decoder"]["norm"][2] = np.inf
    write_checkpoint(tmp_path / "out", Stacked(broken), {"kind": "toy"})
    fresh = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), broken)
    places = jax.tree.map(lambda leaf: leaf.sharding, fresh)
    source = (tmp_path / "out", "decoder")
    with pytest.raises(CheckpointError, match=r"init.decoder: norm of .*out:decoder"):
        warm_start.warm_start(fresh, places, {"decoder": source})


def test_read_in_slices(tmp_path):
    write_checkpoint(tmp_path / "out", Stacked(params()), {"kind": "toy"})
    reader = CheckpointReader(tmp_path / "out" / "checkpoints")
    expected = TreeReader(params())
    assert reader.specs == expected.specs
    assert [reader.stacked(path) for path in sorted(reader.specs)] == [1, 0, 0]
    for path in reader.specs:
        np.testing.assert_array_equal(reader.read(path, ()), expected.read(path, ()))
    part = SubtreeReader(reader, "decoder/")
    assert part.stacked("layers/kernel") == 1
    np.testing.assert_array_equal(
        part.read("layers/kernel", (2,)), params()["decoder"]["layers"]["kernel"][2]
    )


@pytest.mark.parametrize("zarr3", [False, True])
@pytest.mark.parametrize("ocdbt", [False, True])
def test_checkpoints_of_training_are_read(tmp_path, zarr3, ocdbt):
    """Sharded over devices, of a later step, in every layout that Orbax writes."""
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.P(None, "fsdp"))
    kernel = np.arange(3 * 8 * 5, dtype=np.float32).reshape(3, 8, 5)
    state = {"params": {"kernel": jax.device_put(kernel, sharding)}, "step": 7}
    for step in (2, 10):
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt, use_zarr3=zarr3)
        with ocp.Checkpointer(handler) as writer:
            writer.save(tmp_path / "checkpoints" / str(step) / "state", state)
    reader = CheckpointReader(tmp_path)
    assert reader.stacked("kernel") == 0
    np.testing.assert_array_equal(reader.read("kernel", (1,)), kernel[1])


def test_damage_is_noticed_before_anything_is_read(tmp_path):
    write_checkpoint(tmp_path / "out", Stacked(params()), {"kind": "toy"})
    (file,) = (tmp_path / "out" / "checkpoints" / "0" / "state" / "d").iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(WeightsError, match="there is no readable checkpoint in"):
        CheckpointReader(tmp_path / "out")
    with pytest.raises(CheckpointError, match="there is no readable checkpoint in"):
        checkpoints.restore_params(tmp_path / "out")


def test_what_is_no_checkpoint_is_a_sentence(tmp_path):
    with pytest.raises(WeightsError, match="holds no checkpoint"):
        CheckpointReader(tmp_path)
    with pytest.raises(WeightsError, match="does not say which model"):
        read_config(tmp_path)
    (tmp_path / "checkpoints" / "3" / "state").mkdir(parents=True)
    with pytest.raises(WeightsError, match="not a complete checkpoint"):
        CheckpointReader(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(WeightsError, match="does not say which model"):
        read_config(tmp_path)


def test_a_failed_write_leaves_nothing(tmp_path):
    class Broken(Stacked):
        def read(self, path, index):
            if path == "scale":
                raise RuntimeError("the source failed")
            return super().read(path, index)

    with pytest.raises(Exception, match="the source failed"):
        write_checkpoint(tmp_path / "out", Broken(params()), {"kind": "toy"})
    assert not list(tmp_path.iterdir())
    write_checkpoint(tmp_path / "out", Stacked(params()), {"kind": "toy"})
    with pytest.raises(WeightsError, match="exists already"):
        write_checkpoint(tmp_path / "out", Stacked(params()), {"kind": "toy"})
