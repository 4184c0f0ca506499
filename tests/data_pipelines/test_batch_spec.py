"""Shapes known from a config are those of its loader's batches."""

import prepared
import pytest

from data_pipelines.batch_spec import batch_shapes
from data_pipelines.loader import make_loader


@pytest.mark.parametrize(
    "config", [prepared.PICTURES, prepared.PAIRS, prepared.SEQUENCES]
)
def test_as_the_loader_gives_them(config, tmp_path):
    directory = prepared.make(tmp_path / "set")
    vocabulary = prepared.vocabulary(directory)
    with make_loader(config, directory, vocabulary, batch=4, seed=0) as loader:
        batch = next(loader)
    del batch["record"]
    found = {name: (array.shape, array.dtype) for name, array in batch.items()}
    assert found == batch_shapes(config, 4)
