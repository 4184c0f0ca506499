"""Weights by our own names in one file: what is read, and what is refused."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from unitoken_jax import renamed
from unitoken_jax.checkpoint import weights_file
from unitoken_jax.checkpoint.reader import CheckpointError
from unitoken_jax.checkpoint.weights_file import METADATA
from unitoken_jax.parallel.mesh import MeshConfig, make_mesh
from unitoken_jax.runtime.pytree import flatten, nest

ARRAYS = {
    "encoder/in/kernel": np.arange(16, dtype=np.float32).reshape(8, 2),
    "encoder/in/bias": np.ones(2, np.float16),
    "decoder/out/kernel": np.full((2, 3), 2, np.float32),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.safetensors"
    save_file(ARRAYS, path)
    return path


def _everywhere(shapes):
    mesh = make_mesh(MeshConfig(fsdp=8))
    return nest({path: NamedSharding(mesh, PartitionSpec()) for path in shapes})


def test_a_part_is_read_bit_for_bit(file) -> None:
    found = flatten(weights_file.read_params(file, "encoder", _everywhere))
    assert found.keys() == {"in/kernel", "in/bias"}
    for path, value in found.items():
        np.testing.assert_array_equal(value, ARRAYS[f"encoder/{path}"])
        assert value.dtype == ARRAYS[f"encoder/{path}"].dtype


def test_all_is_read_to_where_it_lives(file) -> None:
    mesh = make_mesh(MeshConfig(fsdp=8))
    split = NamedSharding(mesh, PartitionSpec("fsdp"))

    def choose(shapes):
        assert shapes == {path: array.shape for path, array in ARRAYS.items()}
        return {"encoder": {"in": {"kernel": split}}}

    (kernel,) = jax.tree.leaves(weights_file.read_params(file, "", choose))
    assert kernel.sharding == split
    np.testing.assert_array_equal(kernel, ARRAYS["encoder/in/kernel"])


def test_old_names_are_read_as_those_of_today(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(renamed, "PARAMETERS", {"quantiser": "quantizer"})
    path = tmp_path / "old.safetensors"
    save_file({"quantiser/codes": np.ones(3, np.float32)}, path)
    found = weights_file.read_params(path, "quantizer", _everywhere)
    assert flatten(found).keys() == {"codes"}


def test_a_part_that_is_not_there_is_named(file) -> None:
    with pytest.raises(CheckpointError, match="holds no 'encodr'; did you mean 'enco"):
        weights_file.read_params(file, "encodr", _everywhere)


def test_a_missing_file_is_a_sentence(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors cannot be read"):
        weights_file.read_params(tmp_path / "none.safetensors", "", _everywhere)


def test_weights_that_know_other_ids_are_refused(tmp_path) -> None:
    own, other = tmp_path / "own.json", tmp_path / "other.json"
    own.write_text('{"a": 1, "b": [2]}')
    other.write_text('{"a": 1, "b": [3]}')
    path = tmp_path / "some.safetensors"
    digest = weights_file.vocabulary_digest(b'{"b":[2],"a":1}')
    save_file(ARRAYS, path, metadata={METADATA: json.dumps({"vocabulary": digest})})
    weights_file.check_vocabulary(path, own)
    with pytest.raises(CheckpointError, match="ids of another vocabulary than"):
        weights_file.check_vocabulary(path, other)
    save_file(ARRAYS, path)  # does not say whose ids they are
    weights_file.check_vocabulary(path, other)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        weights_file.check_vocabulary(path, own)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, data) -> None:
    path = tmp_path_factory.mktemp("damaged") / "some.safetensors"
    save_file(ARRAYS, path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    said = str(path)
    try:
        weights_file.read_params(path, "", _everywhere)
    except CheckpointError as error:
        said = str(error)
    assert str(path) in said
