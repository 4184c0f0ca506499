"""Weight files in and out: bits kept, shards, and every fault a sentence."""

import json
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from unitoken_jax.convert.files import sinks
from unitoken_jax.convert.files.sources import ArraySource, MergedSource, open_source
from unitoken_jax.convert.tensors import Spec, WeightsError


def tensors():
    rng = np.random.default_rng(0)
    return {
        "a.half": rng.normal(size=(3, 5)).astype(ml_dtypes.bfloat16),
        "b.wide": rng.normal(size=(7,)).astype(np.float32),
        "c.scalar": np.array(3.5, np.float32),
        "d.count": np.arange(4, dtype=np.int64),
        "e.empty": np.zeros((0, 4), np.float16),
    }


def write(path, arrays=None, **options):
    arrays = tensors() if arrays is None else arrays
    specs = {key: Spec(array.shape, array.dtype) for key, array in arrays.items()}
    sinks.write_weights(path, specs, arrays.__getitem__, **options)


def assert_same(source, arrays=None):
    arrays = tensors() if arrays is None else arrays
    assert set(source) == set(arrays)
    for key, array in arrays.items():
        assert source.spec(key) == Spec(array.shape, array.dtype)
        assert source[key].dtype == array.dtype
        np.testing.assert_array_equal(source[key], array)


def test_one_file_in_both_directions_agrees_with_the_library(tmp_path):
    save_file(tensors(), tmp_path / "library.safetensors")
    assert_same(open_source(tmp_path / "library.safetensors"))
    write(tmp_path / "ours.safetensors")
    assert_same(open_source(tmp_path / "ours.safetensors"))
    for key, array in load_file(tmp_path / "ours.safetensors").items():
        np.testing.assert_array_equal(array, tensors()[key])


def test_shards_with_an_index(tmp_path):
    write(tmp_path / "hub", config={"width": 5}, shard_bytes=40)
    names = sorted(path.name for path in (tmp_path / "hub").iterdir())
    assert names[0] == "config.json"
    assert "model-00001-of-00003.safetensors" in names
    index = json.loads((tmp_path / "hub/model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors())
    source = open_source(tmp_path / "hub")
    assert source.config == {"width": 5}
    assert_same(source)
    assert_same(open_source(tmp_path / "hub/model.safetensors.index.json"))


def test_a_small_folder_is_one_file(tmp_path):
    write(tmp_path / "hub")
    assert [path.name for path in (tmp_path / "hub").iterdir()] == ["model.safetensors"]
    assert_same(open_source(tmp_path / "hub"))


def test_mappings_and_jax_arrays():
    import jax.numpy as jnp

    source = ArraySource({"w": jnp.ones((2, 3), jnp.bfloat16)})
    assert source.spec("w") == Spec((2, 3), np.dtype(ml_dtypes.bfloat16))
    assert isinstance(source["w"], np.ndarray)
    with pytest.raises(WeightsError, match="args is a dict, not a tensor"):
        ArraySource({"args": {}})


def test_model_parallel_shards_are_joined():
    def shard(number):
        return ArraySource(
            {
                "layers.0.wq": np.full((2, 3), number, np.float32),
                "layers.0.wo": np.full((2, 3), number, np.float32),
                "layers.0.q_norm": np.full((3,), number, np.float32),
                "norm": np.full((3,), number, np.float32),
            }
        )

    joins = {"wq": 0, "wo": 1, "q_norm": "stack", "norm": "mean"}
    source = MergedSource([shard(1), shard(2)], joins)
    shapes = {key: source.spec(key).shape for key in source}
    assert shapes == {key: source[key].shape for key in source}
    assert shapes["layers.0.wq"] == (4, 3)
    assert source["layers.0.wo"].tolist()[0] == [1, 1, 1, 2, 2, 2]
    assert source["layers.0.q_norm"].tolist() == [[1] * 3, [2] * 3]
    assert source["norm"].tolist() == [1.5] * 3
    with pytest.raises(WeightsError, match="shards of norm are joined"):
        MergedSource([shard(1)], {"wq": 0, "wo": 0, "q_norm": 0})
    with pytest.raises(WeightsError, match="not shards of one checkpoint"):
        MergedSource([shard(1), ArraySource({})], joins)


def refused(path, *texts):
    with pytest.raises(WeightsError) as caught:
        open_source(path)
    for text in texts:
        assert text in str(caught.value)


def test_faulty_files_are_sentences(tmp_path):
    refused(tmp_path / "none.safetensors", "does not exist")
    refused(tmp_path, "holds no weight file")
    (tmp_path / "weights.npz").write_bytes(b"")
    refused(tmp_path / "weights.npz", "none of the weight files that can be read")
    write(tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[:-5])
    refused(cut, "cut.safetensors is not a complete safetensors file", "cut off")
    refused(tmp_path, "2 weight files and no index")


def test_faulty_indexes_are_sentences(tmp_path):
    write(tmp_path / "hub", shard_bytes=40)
    index = tmp_path / "hub/model.safetensors.index.json"
    (tmp_path / "hub/model-00002-of-00003.safetensors").rename(tmp_path / "kept")
    refused(tmp_path / "hub", "model-00002-of-00003.safetensors", "not there")
    (tmp_path / "kept").rename(tmp_path / "hub/model-00002-of-00003.safetensors")
    contents = json.loads(index.read_text())
    contents["weight_map"]["f.more"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(contents))
    refused(tmp_path / "hub", "the index says", "f.more")
    index.write_text("[]")
    refused(tmp_path / "hub", "index.json holds a list and no JSON object")
    (tmp_path / "hub/config.json").write_text("{")
    refused(tmp_path / "hub", "config.json is not JSON")


def test_a_name_in_two_shards_is_refused(tmp_path):
    write(tmp_path / "one.safetensors")
    write(tmp_path / "two.safetensors")
    index = {"weight_map": {"a.half": "one.safetensors", "b.wide": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(tmp_path, "does not belong to this checkpoint")


def test_pickles_need_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "model.pth").write_bytes(b"PK\x03\x04" + bytes(99))
    refused(
        tmp_path / "model.pth", "only PyTorch can read safely", "requirements-torch"
    )
    with pytest.raises(WeightsError, match="needs PyTorch"):
        write(tmp_path / "out.pth")
    assert not list(tmp_path.glob("*out.pth*"))


def test_nothing_is_overwritten_or_left_behind(tmp_path):
    write(tmp_path / "hub")
    with pytest.raises(WeightsError, match="exists already"):
        write(tmp_path / "hub")

    def broken(key):
        if key == "d.count":
            raise RuntimeError("the source failed")
        return tensors()[key]

    specs = {key: Spec(array.shape, array.dtype) for key, array in tensors().items()}
    for name in ("other", "other.safetensors"):
        with pytest.raises(RuntimeError):
            sinks.write_weights(tmp_path / name, specs, broken)
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_a_full_disk_is_noticed_before_writing(tmp_path):
    huge = {"w": Spec((2**60,), np.dtype(np.float32))}
    with pytest.raises(WeightsError, match="make room"):
        sinks.write_weights(tmp_path / "x.safetensors", huge, lambda key: None)


def test_an_unannounced_tensor_is_refused(tmp_path):
    specs = {"w": Spec((2,), np.dtype(np.float32))}
    with pytest.raises(WeightsError, match="was announced as"):
        sinks.write_weights(tmp_path / "x.safetensors", specs, lambda _: np.zeros(2))


@pytest.mark.parametrize("length", [0x0280, 0x0480])
def test_a_header_as_long_as_a_pickle_begins_is_read(length, tmp_path):
    """The length's first two bytes are those of a pickle of protocol 2 or 4."""
    path = tmp_path / "model.safetensors"
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    text = json.dumps({"w": entry}).encode().ljust(length)
    path.write_bytes(length.to_bytes(8, "little") + text + bytes(4))
    assert path.read_bytes()[:1] == b"\x80"
    assert open_source(path)["w"].tolist() == [0]
