"""PyTorch's old files without PyTorch; the perceptual weights out of their wheel."""

import collections
import hashlib
import io
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from unitoken_jax import convert
from unitoken_jax.config import UserError
from unitoken_jax.convert import perceptual
from unitoken_jax.convert.files.legacy import read_legacy
from unitoken_jax.convert.published import lpips
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.models.perceptual.stlpips import StLpipsConfig

MAGIC = 0x1950A86A20F9469CFC6C


class Storage(collections.namedtuple("Storage", ["key", "numbers"])):
    """Stands for a storage while a file is written."""


class Tensor(collections.namedtuple("Tensor", ["storage", "shape"])):
    """Stands for a tensor of a whole storage."""

    def __reduce__(self):
        utils = sys.modules["torch._utils"]
        stride = np.cumprod((1, *self.shape[:0:-1]))[::-1][: len(self.shape)].tolist()
        arguments = (self.storage, 0, self.shape, tuple(stride), False, {})
        return utils._rebuild_tensor_v2, arguments


@pytest.fixture
def old_file(monkeypatch, tmp_path):
    """Writes arrays (and other things) as PyTorch 1.5 did."""

    def rebuild(*arguments):
        raise AssertionError("a file was read with code of its own")

    storage_class = type("FloatStorage", (), {"__module__": "torch"})
    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage, utils._rebuild_tensor_v2 = storage_class, rebuild
    for module in (torch, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Storage):
                size = obj.numbers.size
                return "storage", storage_class, obj.key, "cpu", size, None
            return None

    def write(content):
        file = io.BytesIO()
        storages = [
            Storage(str(i), value)
            for i, value in enumerate(content.values())
            if isinstance(value, np.ndarray)
        ]
        by_array = {id(storage.numbers): storage for storage in storages}
        state = collections.OrderedDict(
            (name, Tensor(by_array[id(value)], value.shape))
            if isinstance(value, np.ndarray)
            else (name, value)
            for name, value in content.items()
        )
        for head in (MAGIC, 1001, {"little_endian": True}):
            pickle.dump(head, file, 2)
        Pickler(file, 2).dump(state)
        pickle.dump([storage.key for storage in storages], file, 2)
        for storage in storages:
            file.write(storage.numbers.size.to_bytes(8, "little"))
            file.write(storage.numbers.astype("<f4").tobytes())
        path = tmp_path / "old.pth"
        path.write_bytes(file.getvalue())
        return path

    return write


def arrays():
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (2, 3, 4), "a.bias": (5,), "scale": ()}
    return {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}


def test_tensors_come_back(old_file):
    expected = arrays()
    found = read_legacy(old_file(expected))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_file_that_names_anything_else_is_refused(old_file):
    path = old_file({**arrays(), "hook": sys.exit})
    with pytest.raises(WeightsError, match=r"names sys\.exit, which no weights need"):
        read_legacy(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match="does not begin with PyTorch's mark"):
        read_legacy(path)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_legacy(tmp_path / "missing.pth")


def test_weights_come_out_of_the_pinned_wheel_only(old_file, tmp_path, monkeypatch):
    shapes = {}
    config = StLpipsConfig()
    inputs = (3, *config.widths)
    places = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")
    for i, (width, size) in enumerate(zip(config.widths, config.sizes, strict=True)):
        shapes[f"net.{places[i]}.weight"] = (width, inputs[i], size, size)
        shapes[f"net.{places[i]}.bias"] = (width,)
        shapes[f"lin{i}.model.1.weight"] = (1, width, 1, 1)
    shapes["scaling_layer.shift"] = (1, 3, 1, 1)
    content = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    wheel = tmp_path / "package.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        member = "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth"
        archive.writestr(member, old_file(content).read_bytes())
    with pytest.raises(UserError, match="it is not the wheel of stlpips-pytorch"):
        perceptual.fetch(tmp_path / "out", wheel)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(perceptual, "WHEEL_SHA256", digest)
    path = perceptual.fetch(tmp_path / "out", wheel)
    assert path == perceptual.fetch(tmp_path / "out")  # kept
    _, params = convert.load("stlpips", path)
    assert params["conv_4"]["kernel"].shape == (3, 3, 256, 256)
    assert lpips.counts(config) == {}


def test_a_download_that_fails_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(perceptual.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="give it as --wheel"):
        perceptual.fetch(tmp_path / "out")
