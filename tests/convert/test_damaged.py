"""Whatever a weight file is, or has become, ends in a sentence and no traceback."""

import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tests.convert.test_exchange import LLAMA, MLLM, UNITOK, module_of, random_params
from unitoken_jax import convert
from unitoken_jax.convert.files.sources import ArraySource, open_source, unwrapped
from unitoken_jax.convert.formats import FORMATS, format_of
from unitoken_jax.convert.table import export_tensors
from unitoken_jax.convert.tensors import WeightsError, unfinite


def refused(path, *texts):
    with pytest.raises(WeightsError) as caught:
        open_source(path)
    for text in (str(path.name), *texts):
        assert text in str(caught.value), str(caught.value)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
NOT_WEIGHTS = {
    "lfs": (LFS, "pointer of git-lfs", "git lfs pull"),
    "html": (b"<!DOCTYPE html><html>Not found</html>" * 20, "a web page"),
    "page_bom": (b"\xef\xbb\xbf  <html>\r\n</html>", "a web page"),
    "json": (b'{"error": "Access to model is restricted"}', "a web page or a message"),
    "words": (b"Entry not found", "holds text ('Entry not found'"),
    "umlauts": ("Zugriff für Unbefugte gesperrt ".encode() * 30, "holds text"),
    "empty": (b"", "is empty"),
    "zeros": (bytes(4096), "zeros only"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(range(256)), "gzip"),
    "tar": (b"x" * 100 + bytes(157) + b"ustar\x0000" + bytes(250), "tar archive"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(99), "GGUF"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "numpy": (b"\x93NUMPY\x01\x00v\x00" + bytes(99), "NumPy"),
}


@pytest.mark.parametrize("kind", NOT_WEIGHTS)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.pth", "pytorch_model.bin"]
)
def test_files_that_are_something_else(kind, name, tmp_path):
    content, *texts = NOT_WEIGHTS[kind]
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, *texts)
    with pytest.raises(WeightsError, match=name):
        open_source(tmp_path)


def test_files_of_the_other_kind(tmp_path):
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "is a safetensors file", ".safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"PK\x03\x04" + bytes(range(99)))
    refused(tmp_path / "a.safetensors", "is a PyTorch file", ".pth")


def test_what_is_no_file(tmp_path):
    loop = tmp_path / "loop.safetensors"
    loop.symlink_to(loop)
    refused(loop, "lead in a circle")
    (tmp_path / "gone.pth").symlink_to(tmp_path / "nothing")
    refused(tmp_path / "gone.pth", "does not exist")
    os.mkfifo(tmp_path / "pipe.safetensors")
    refused(tmp_path / "pipe.safetensors", "no regular file")
    (tmp_path / "folder.safetensors").mkdir()
    refused(tmp_path / "folder.safetensors", "holds no weight file")
    refused(tmp_path / "pipe.safetensors" / "model.pth", "cannot be read")
    refused(tmp_path / ("x" * 300 + ".pth"), "cannot be read")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_what_may_not_be_read(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": np.zeros(3, np.float32)}, path)
    path.chmod(0)
    refused(path, "cannot be read: Permission denied")


def entry(dtype="F32", shape=(2,), places=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(places)}


def file_of(header, numbers=bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


DAMAGES = {
    "length": (b"\xff" * 8 + b'{"w"', "its header would be"),
    "longer": ((500).to_bytes(8, "little") + b"{}" + bytes(8), "its header would be"),
    "short": (b"\x02\x00\x00", "its header would be"),
    "no_json": (file_of(b"{'w': \x00}"), "no JSON"),
    "deep": (file_of(b"[" * 100_000), "no JSON"),
    "utf8": (file_of(b'{"\xff\xfe": 1}'), "no JSON"),
    "list": (file_of([1]), "no JSON object"),
    "twice": (
        file_of(b'{"w": %b, "w": %b}' % ((json.dumps(entry()).encode(),) * 2)),
        "it has 'w' twice",
    ),
    "not_described": (file_of({"w": 3}), "w is not described"),
    "no_shape": (file_of({"w": {"dtype": "F32"}}), "w has no shape"),
    "negative": (file_of({"w": entry(shape=[-2])}), "w has no shape"),
    "boolean": (file_of({"w": entry(shape=[True, 2])}), "w has no shape"),
    "fraction": (file_of({"w": entry(shape=[2.0])}), "w has no shape"),
    "type": (file_of({"w": entry("F4")}), "type 'F4', which is not supported"),
    "type_number": (file_of({"w": entry(3)}), "not supported"),
    "bytes": (file_of({"w": entry(shape=[3])}), "another number of bytes"),
    "huge": (file_of({"w": entry(shape=[2**62, 2**62])}), "another number of bytes"),
    "beyond": (
        file_of({"w": entry(), "v": entry(places=(8, 16))}),
        "8 bytes of numbers and its header says 16",
    ),
    "overlap": (
        file_of({"w": entry(), "v": entry(places=(4, 12))}, bytes(12)),
        "overlaps the one before",
    ),
    "gap": (file_of({"w": entry(places=(4, 12))}, bytes(12)), "leaves a gap"),
    "rest": (file_of({"w": entry()}, bytes(12)), "12 bytes of numbers"),
    "cut": (file_of({"w": entry()}, bytes(5)), "5 bytes of numbers"),
    "metadata": (file_of({"w": entry(), "__metadata__": [1]}), "metadata"),
    "metadata_value": (file_of({"w": entry(), "__metadata__": {"a": 1}}), "metadata"),
    "nothing": (file_of({}, b""), "holds no tensors"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_headers(kind, tmp_path):
    content, text = DAMAGES[kind]
    (tmp_path / "model.safetensors").write_bytes(content)
    refused(tmp_path / "model.safetensors", text)


INDEXES = {
    "list": ([], "holds a list"),
    "null": (None, "holds null"),
    "number": (3, "holds a int"),
    "absent": ({"metadata": {}}, "weight_map"),
    "empty": ({"weight_map": {}}, "weight_map"),
    "map_list": ({"weight_map": ["a"]}, "weight_map"),
    "values": ({"weight_map": {"w": 3}}, "weight_map"),
    "outside": ({"weight_map": {"w": "../other.safetensors"}}, "no file beside it"),
    "absolute": ({"weight_map": {"w": "/etc/passwd"}}, "no file beside it"),
    "missing": ({"weight_map": {"w": "b.safetensors"}}, "not there: b.safetensors"),
    "folder": ({"weight_map": {"w": "c.safetensors"}}, "c.safetensors"),
    "name": ({"weight_map": {"v": "a.safetensors"}}, "the index says"),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_damaged_indexes(kind, tmp_path):
    content, text = INDEXES[kind]
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
    (tmp_path / "c.safetensors").mkdir()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError) as caught:
        open_source(tmp_path)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[1]", "holds a list and no JSON object"),
        (b"null", "holds null and no JSON object"),
        (b"3", "holds a int and no JSON object"),
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b'{"rms_norm_eps": NaN}', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_damaged_configurations(content, text, tmp_path):
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        open_source(tmp_path)
    assert f"{tmp_path / 'config.json'}" in str(caught.value)
    assert text in str(caught.value)


def test_the_other_format_is_named_before_its_configuration_is_read(tmp_path):
    """A UniTok file as vqgan: `model` is a name there and a group here."""
    convert.save("unitok", module_of(UNITOK), random_params(UNITOK), tmp_path / "x")
    with pytest.raises(WeightsError, match="look like unitok: use --from unitok"):
        convert.load("vqgan", tmp_path / "x")
    with pytest.raises(WeightsError, match="look like unitok-mllm"):
        convert.load("llama-hf", saved("unitok-mllm", MLLM, tmp_path / "mllm"))


def saved(name, config, path):
    convert.save(name, module_of(config), random_params(config), path)
    return path


def tensors():
    kind = format_of("llama-hf")
    return export_tensors(kind.table(LLAMA), random_params(LLAMA), {"layer": 2})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_numbers_that_are_none(bad, dtype, tmp_path):
    found = {key: array.astype(dtype) for key, array in tensors().items()}
    key = "model.layers.1.mlp.up_proj.weight"
    found[key][3, 4] = bad
    text = "1 NaN of 1,536" if np.isnan(bad) else "1 infinite of 1,536"
    with pytest.raises(WeightsError, match=f"{key} holds {text}"):
        convert.load("llama-hf", found, LLAMA)
    save_file(found, tmp_path / "model.safetensors")
    described = format_of("llama-hf").write_config(LLAMA, {})
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(WeightsError, match=f"{key} holds {text}"):
        convert.convert("llama-hf", "jax", tmp_path, tmp_path / "out")
    with pytest.raises(WeightsError, match=f"{key} holds {text}"):
        convert.convert("llama-hf", "llama-hf", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_parameters_that_are_no_numbers_are_not_exported(tmp_path):
    params = random_params(LLAMA)
    params["layers"]["mlp"]["up"]["kernel"][1, 2, 3] = np.nan
    for name in ("jax", "llama-hf"):
        with pytest.raises(WeightsError, match=r"layers/mlp/up/kernel.*1 NaN"):
            convert.save(name, module_of(LLAMA), params, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    params["layers"]["mlp"]["up"]["kernel"][1, 2, 3] = 1e6
    with pytest.raises(WeightsError, match=r"up/kernel has numbers beyond.*float16"):
        convert.save(
            "llama-hf", module_of(LLAMA), params, tmp_path / "out", dtype="float16"
        )
    assert not list(tmp_path.iterdir())
    convert.save(
        "llama-hf", module_of(LLAMA), params, tmp_path / "out", dtype="bfloat16"
    )


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_numbers_are_judged_as_numpy_does(data):
    names = ["float64", "float32", "float16", "bfloat16", "float8_e5m2"]
    names.append("float8_e4m3fn")
    dtype = np.dtype(data.draw(st.sampled_from(names)))
    size = data.draw(st.integers(0, 6))
    words = [
        data.draw(st.integers(0, 2 ** (8 * dtype.itemsize) - 1)) for _ in range(size)
    ]
    array = np.array(words, f"u{dtype.itemsize}").view(dtype)
    expected = np.isfinite(array.astype(np.float64)).all()
    assert (unfinite(array) is None) == expected


def test_other_types_are_refused():
    found = tensors()
    found["model.norm.weight"] = np.ones(32, np.int8)
    with pytest.raises(WeightsError, match=r"model.norm.weight \(int8\)"):
        convert.load("llama-hf", found, LLAMA)


@pytest.mark.parametrize(
    "wrap",
    [
        "module.{}",
        "_orig_mod.{}",
        "module._orig_mod.{}",
        "_orig_mod.module.{}",
        "module.module.{}",
        "_fsdp_wrapped_module.{}",
    ],
)
def test_wrappers_are_taken_off_names(wrap):
    found = {wrap.format(key): array for key, array in tensors().items()}
    _, params = convert.load("llama-hf", found, LLAMA)
    np.testing.assert_array_equal(
        params["norm"]["scale"], tensors()["model.norm.weight"]
    )


def test_wrappers_within_names_are_taken_off():
    source = unwrapped(ArraySource({"a._orig_mod.b": np.ones(2), "c": np.ones(1)}))
    assert set(source) == {"a.b", "c"}
    with pytest.raises(WeightsError, match="one name without their wrappers"):
        unwrapped(ArraySource({"a._orig_mod.b": np.ones(2), "a.b": np.ones(2)}))


def test_a_part_of_the_names_is_chosen(tmp_path):
    found = {f"ema.{key}": array for key, array in tensors().items()}
    found |= {f"net.{key}": 2 * array for key, array in tensors().items()}
    save_file(found, tmp_path / "both.safetensors")
    path = tmp_path / "both.safetensors"
    _, params = convert.load("llama-hf", path, LLAMA, weights="net")
    np.testing.assert_array_equal(
        params["norm"]["scale"], 2 * tensors()["model.norm.weight"]
    )
    with pytest.raises(
        WeightsError, match="--weights=model; their names begin with ema"
    ):
        convert.load("llama-hf", path, LLAMA, weights="model")


# ---- writing


def test_a_broken_link_is_not_written_over(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="exists already"):
        saved("llama-hf", LLAMA, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="file is a file and no folder"):
        saved("llama-hf", LLAMA, tmp_path / "file" / "out")
    with pytest.raises(WeightsError, match="File name too long"):
        saved("llama-hf", LLAMA, tmp_path / ("x" * 300))
    assert {path.name for path in tmp_path.iterdir()} == {"out", "file"}


def test_an_existing_output_is_refused_before_the_source_is_read(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(WeightsError, match="exists already"):
        convert.convert("llama-hf", "jax", tmp_path / "nothing", tmp_path / "out")


FULL = """
import resource, signal, sys
import numpy as np
sys.path.insert(0, "tests/convert")
from unitoken_jax.convert.files import sinks
from unitoken_jax.convert.table import Spec, WeightsError
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
specs = {"w": Spec((100_000,), np.dtype(np.float32))}
for name in ("x.safetensors", "x"):
    try:
        read = lambda key: np.zeros(100_000, np.float32)
        sinks.write_weights(Path(sys.argv[1]) / name, specs, read)
    except WeightsError as fault:
        print(fault)
"""


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands for the disk."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("failed (File too large); nothing is left of it" in x for x in lines)
    assert not list(tmp_path.iterdir())


# ---- fuzzing


def _opened(path):
    """Reads everything: True if the file is whole, False if it is refused."""
    try:
        source = open_source(path)
        for key in source:
            source[key]
    except WeightsError as fault:
        said = str(fault)
    else:
        return True
    assert str(path) in said
    assert len(said) < 2000
    return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def whole_file():
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3)}
    header = {"a": entry(shape=(2, 3), places=(0, 24))}
    header["b"] = entry("F64", (3,), (24, 48))
    return file_of(header, b"".join(array.tobytes() for array in arrays.values()))


WHOLE = whole_file()


def damage(content, edits):
    """Bytes set, cut out or put in."""
    data = bytearray(content)
    for kind, place, value in edits:
        at = place % (len(data) + 1)
        if kind == "cut":
            del data[at : at + value]
        elif kind == "insert":
            data[at:at] = bytes([value])
        elif at < len(data):
            data[at] ^= 1 << value % 8 if kind == "flip" else value
    return bytes(data)


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "cut", "insert"]),
        st.integers(0, 2**16),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=4,
)


def fuzz_safetensors(folder, edits):
    path = folder / "model.safetensors"
    path.write_bytes(damage(WHOLE, edits))
    _opened(path)


@given(edits=EDITS)
@settings(max_examples=300, deadline=None)
def test_fuzzed_safetensors(folder, edits):
    fuzz_safetensors(folder, edits)


@given(
    content=st.binary(max_size=200), name=st.sampled_from(["x.pth", "x.safetensors"])
)
@settings(max_examples=200, deadline=None)
def test_random_bytes(folder, content, name):
    (folder / name).write_bytes(content)
    _opened(folder / name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
FORMAT_FIELDS = {
    name: sorted(kind.write_config(kind.published[0], {}))
    for name, kind in zip(FORMATS, map(format_of, FORMATS), strict=True)
}


def fuzz_config(name, values):
    """A configuration of anything is read, or refused in a sentence."""
    source = {"w": np.zeros(3, np.float32)}
    with pytest.raises(WeightsError):
        convert.load(name, source, values)


@st.composite
def configurations(draw):
    name = draw(st.sampled_from(sorted(FORMATS)))
    keys = st.sampled_from(FORMAT_FIELDS[name] + ["model", "ddconfig", "rope_scaling"])
    whole = st.integers(-2, 64) | st.sampled_from([2**31, 2**63, 10**400])
    return name, draw(st.dictionaries(keys, JSON | whole, min_size=1, max_size=4))


@given(configurations())
@settings(max_examples=60, deadline=None)
def test_fuzzed_configurations(drawn):
    fuzz_config(*drawn)


@pytest.mark.slow
@given(edits=EDITS)
@settings(max_examples=5000, deadline=None)
def test_fuzzed_safetensors_at_length(folder, edits):
    fuzz_safetensors(folder, edits)


@pytest.mark.slow
@given(configurations())
@settings(max_examples=3000, deadline=None)
def test_fuzzed_configurations_at_length(drawn):
    fuzz_config(*drawn)
