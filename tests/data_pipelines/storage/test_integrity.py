"""Files that are not the manifest's are noticed: some at each start, all on request."""

import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

import msgpack
import numpy as np
import prepared
import pytest
import shard_damage as damage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines import verify
from data_pipelines.errors import DataError
from data_pipelines.loader import make_loader
from data_pipelines.storage import integrity, records
from data_pipelines.storage.code_files import CodeFileError, CodeFiles
from data_pipelines.storage.manifest import (
    FILE,
    Manifest,
    _seal,
    file_digest,
    read_manifest,
)
from data_pipelines.storage.readers import READERS, ShardError, StorageError
from data_pipelines.storage.shards import Split, write_split
from unitoken_jax.errors import REFUSED

TEXTS = "train-00001-of-00003.array_record"
UNCHECKED = integrity.Found((), ())
PICTURES = "train.pictures-00001-of-00003.array_record"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Three shards of equal size, with pictures beside them."""
    directory = tmp_path_factory.mktemp("data") / "set"
    prepared.make(directory)
    rng = np.random.default_rng(0)
    made = map(records.encode, (prepared.record(i, rng) for i in range(60)))
    splits = {"train": write_split(directory, "train", made, count=60, shards=3)}
    files = {"tokenizer.json": file_digest(directory / "tokenizer.json")}
    Manifest(splits, {"source": "test"}, {}, (), files).write(directory)
    for path in directory.glob("*-of-00002.*"):
        path.unlink()
    return directory


@pytest.fixture
def directory(original, tmp_path):
    READERS.forget([*READERS._open])
    return Path(shutil.copytree(original, tmp_path / "set"))


@pytest.fixture
def large(monkeypatch):
    """Lets a small data set be compared at the start as a large one is."""
    monkeypatch.setattr(integrity, "_SMALL", 0)


def faults(directory: Path) -> list[str]:
    return [str(fault) for fault in integrity.verify(directory)]


def read_all(directory: Path) -> list[str]:
    """Reads every record, whatever the start's check says; faults are sentences."""
    found: list[str] = []
    try:
        split = Split(directory, "train")
    except ShardError as fault:
        found.append(str(fault))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(integrity, "check_shards", lambda *_, **__: UNCHECKED)
            split = Split(directory, "train")
    for index in range(len(split)):
        if fault := fault_of(split, index):
            found.append(fault)
    return found


def fault_of(split: Split, index: int) -> str:
    """Reads a record; what is wrong, if anything is, must be a sentence."""
    try:
        split[index]
    except DataError as fault:
        return str(fault)
    return ""


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr("data_pipelines.storage.readers._PAUSES", (0.0,))


def test_a_whole_data_set_has_no_faults(directory, large):
    assert faults(directory) == []
    assert read_all(directory) == []
    assert verify.main(["--input", str(directory)]) == 0


@pytest.mark.parametrize("name", [TEXTS, PICTURES])
@pytest.mark.parametrize("kind", damage.DAMAGES)
def test_damage_is_noticed_and_a_sentence(kind, name, directory, large, capsys):
    path = directory / name
    damage.DAMAGES[kind](path, directory / name.replace("00001-of", "00002-of"))
    with pytest.raises(ShardError) as caught:
        Split(directory, "train")
    assert name in str(caught.value)
    assert any(name in fault for fault in faults(directory))
    assert verify.main(["--input", str(directory)]) == 1
    assert f"error: {path}" in capsys.readouterr().err
    assert read_all(directory)
    if name == PICTURES:  # texts and codes are read without them
        assert len(list(Split(directory, "train", images=False))) == 60


@pytest.mark.parametrize("kind", damage.DAMAGES)
def test_damage_while_files_are_open_is_a_sentence(kind, directory):
    split = Split(directory, "train")
    assert split[0]["id"]
    assert split[25]["id"]
    damage.DAMAGES[kind](directory / TEXTS, directory / TEXTS.replace("1-of", "2-of"))
    for attempt in range(2):  # while they are open, and once they are opened again
        for index in range(20, 40):
            fault = fault_of(split, index)
            assert not fault or (TEXTS in fault and "\n" not in fault)
        split.close()
        assert attempt or split[0]["id"]


def flips(path: Path, count: int, seed: int) -> list[int]:
    bits = np.random.default_rng(seed).integers(0, 8 * path.stat().st_size, count)
    return bits.tolist()


def test_no_bit_flips_unnoticed(directory):
    for name in (TEXTS, PICTURES):
        path = directory / name
        for bit in flips(path, 8, seed=1):
            damage.flip(path, bit)
            assert len(faults(directory)) == 1
            with pytest.raises(ShardError):  # the data set is small
                Split(directory, "train")
            assert all(name in fault for fault in read_all(directory))
            damage.flip(path, bit)
    assert faults(directory) == []


@pytest.mark.slow
def test_drill_of_bits(directory, large):
    """What each check finds of 300 bits: prints the figures."""
    at_start = by_reading = silent = 0
    before = list(Split(directory, "train"))
    chosen = [
        (directory / name, bit)
        for name in (TEXTS, PICTURES)
        for bit in flips(directory / name, 150, seed=2)
    ]
    for path, bit in chosen:
        damage.flip(path, bit)
        assert len(faults(directory)) == 1
        found = read_all(directory)
        at_start += bool(found) and "manifest" in found[0]
        by_reading += bool(found)
        if not found:
            silent += list(Split(directory, "train")) != before
        READERS.forget([*READERS._open])
        damage.flip(path, bit)
    print(f"of 300 bits: {at_start} at the start, {by_reading} by then and by reading")
    assert silent == 0


def test_shards_in_another_order_are_noticed(directory):
    path = directory / FILE
    data = json.loads(path.read_text())
    data["splits"]["train"].reverse()
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="was changed after it was written"):
        Split(directory, "train")


def test_exchanged_letters_of_the_tokenizer_are_noticed(directory, capsys):
    path = directory / "tokenizer.json"
    words = json.loads(path.read_text())
    names = words["model"]["vocab"]
    names["a"], names["b"] = names["b"], names["a"]
    path.write_text(json.dumps(words))
    with pytest.raises(ShardError, match=r"tokenizer\.json does not have the digest"):
        Split(directory, "train")
    with pytest.raises(ShardError, match=r"tokenizer\.json"):
        integrity.check_tokenizer(directory, "tokenizer.json")
    assert verify.main(["--input", str(directory)]) == 1
    assert "tokenizer.json" in capsys.readouterr().err


def test_other_contents_are_another_stream(directory, tmp_path):
    def digest(at):
        with make_loader(prepared.IMAGES, at, batch=4, seed=0) as loader:
            return loader.digest

    other = Path(shutil.copytree(directory, tmp_path / "other"))
    assert digest(other) == digest(directory)
    old_format(directory)
    same = digest(directory)
    damage.swapped(directory / TEXTS, directory / TEXTS.replace("1-of", "2-of"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integrity, "_SMALL", 0)
        assert digest(directory) != same


def old_entry(data: bytes, separate: bool) -> tuple[bytes, bytes]:
    """What earlier programs wrote for an encoded record: its text, and its picture."""
    new = records.decode(data)
    (shown,) = new["images"] or [records.picture(b"")]
    (codes,) = shown["codes"] or [{"data": None, "grid": None}]
    old = {
        "id": new["id"],
        "image": len(shown["bytes"]) if separate else shown["bytes"],
        "width": shown["width"],
        "height": shown["height"],
        "captions": new["captions"],
        "questions": new["questions"],
        "concept": new["group"],
        "category": new["category"],
        "subcategory": new["subcategory"],
        "keywords": new["keywords"],
        "source": new["source"],
        "license": new["license"],
        "codes": codes["data"],
        "grid": codes["grid"],
    }
    text = msgpack.packb(old, use_bin_type=True)
    assert text is not None
    return text, shown["bytes"] if separate else b""


def old_format(directory: Path, number: int = 1) -> None:
    """Makes of a data set what earlier programs wrote in format `number`."""
    manifest = read_manifest(directory)
    made = list(Split(directory, "train"))
    for path in directory.glob("*.array_record"):
        path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "separate", lambda data: old_entry(data, number > 1))
        whole = write_split(
            directory, "train", map(records.encode, made), count=len(made), shards=3
        )
    if number == 1:
        for path in directory.glob("*.pictures-*"):
            path.unlink()
        whole = tuple(replace(shard, probe="", pictures=None) for shard in whole)
    keys = (
        "name",
        "records",
        "size",
        "sha256",
        *["probe", "pictures"][: number * 2 - 2],
    )
    rows = [{key: asdict(shard)[key] for key in keys} for shard in whole]
    content = {
        "format": number,
        "digest": replace(manifest, splits={"train": whole}).digest,
        "splits": {"train": rows},
        "provenance": manifest.provenance,
        "counts": {},
        "rejected": [],
        "files": manifest.files,
    }
    if number > 1:
        content["seal"] = _seal(content)
    (directory / FILE).write_text(json.dumps(content))


@pytest.mark.parametrize("number", [1, 2])
def test_records_of_earlier_programs_appear_as_version_3(directory, tmp_path, number):
    old = Path(shutil.copytree(directory, tmp_path / "old"))
    old_format(old, number)
    assert list(Split(old, "train", verify=True)) == list(Split(directory, "train"))
    for split in (Split(old, "train", images=False), Split(old, "train")):
        outline = split.without_images()[5]
        assert outline == records.outline(Split(directory, "train")[5])
    assert read_manifest(old).image_policy == "released"


def test_data_sets_of_earlier_programs_give_the_same_stream(
    directory, tmp_path, caplog, large, monkeypatch
):
    old = Path(shutil.copytree(directory, tmp_path / "old"))
    old_format(old)
    vocabulary = prepared.vocabulary(directory)
    for config in (prepared.IMAGES, prepared.PAIRS, prepared.SEQUENCES):
        batches = []
        for at in (directory, old):
            with make_loader(config, at, vocabulary, batch=4, seed=0) as loader:
                batches.append([next(loader) for _ in range(4)])
        for new, before in zip(*batches, strict=True):
            for key in new:
                np.testing.assert_array_equal(new[key], before[key])
    assert "was prepared by an earlier program" in caplog.text
    assert faults(old) == []
    damage.swapped(old / TEXTS, old / TEXTS.replace("1-of", "2-of"))
    assert len(faults(old)) == 2
    monkeypatch.setattr(integrity, "_SMALL", 2**30)
    with pytest.raises(ShardError):
        Split(old, "train")


def test_what_is_not_compared_at_the_start_is_watched(directory, large):
    path = directory / TEXTS
    digests = {path: "0" * 64}
    watch = integrity.Watch(digests.items(), rate=2**40)
    watch._thread.join(10)
    assert isinstance(watch.fault, StorageError)
    assert TEXTS in str(watch.fault)
    watch.close()
    config = replace(prepared.IMAGES, watch_mib=1024)
    with make_loader(config, directory, batch=4, seed=0) as loader:
        next(loader)
        watch = loader._watch
        assert watch is not None
        watch._thread.join(10)
        assert (watch.fault, watch.compared) == (None, 6)
        watch.fault = StorageError(f"{path} was changed")
        with pytest.raises(StorageError, match="was changed"):
            next(loader)


def test_a_watch_is_slow_and_ends_at_once(directory, large):
    config = replace(prepared.IMAGES, watch_mib=1)
    with make_loader(config, directory, batch=4, seed=0) as loader:
        next(loader)
        watch = loader._watch
        assert watch is not None
        assert (
            watch._thread.is_alive()
        )  # six files of 64 KiB and more at 1 MiB a second
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert not watch._thread.is_alive()
    silent = replace(config, watch_mib=0)
    with make_loader(silent, directory, batch=4, seed=0) as loader:
        next(loader)
        assert loader._watch is None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from([10**300, -1, 2**31, "0" * 64, "../up", "a\0b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def paths_of(node, at=()):
    """Every place of a JSON value."""
    yield at
    items = node.items() if isinstance(node, dict) else ()
    if isinstance(node, list):
        items = enumerate(node)
    for key, value in items:
        yield from paths_of(value, (*at, key))


def with_value(node, path, value):
    if not path:
        return value
    copy = node.copy()
    copy[path[0]] = with_value(node[path[0]], path[1:], value)
    return copy


def fuzz_manifest(directory: Path, data: st.DataObject, *, sealed: bool) -> None:
    content = json.loads((directory / FILE).read_text())
    places = [path for path in paths_of(content) if path]
    chosen = data.draw(st.sampled_from(places))
    if data.draw(st.booleans()):
        content = with_value(content, chosen, data.draw(JSON))
    else:
        parent = content
        for key in chosen[:-1]:
            parent = parent[key]
        del parent[chosen[-1]]
    if sealed:  # a program that writes manifests of its own
        content.pop("seal", None)
        if isinstance(content.get("format"), int):
            content["format"] = 1
    changed = directory.parent / "changed"
    changed.mkdir(exist_ok=True)
    for path in directory.iterdir():
        if path.name != FILE and not (changed / path.name).exists():
            (changed / path.name).symlink_to(path)
    (changed / FILE).write_text(json.dumps(content))
    try:
        for config in (prepared.IMAGES, prepared.SEQUENCES):
            vocabulary = prepared.vocabulary(changed)
            with make_loader(config, changed, vocabulary, batch=2, seed=0) as loader:
                loader.batch_at(0)
        list(integrity.verify(changed))
    except DataError:
        return


FUZZ = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@settings(FUZZ, max_examples=40)
@given(st.data(), st.booleans())
def test_any_manifest_is_read_or_refused(directory, data, sealed):
    fuzz_manifest(directory, data, sealed=sealed)


@pytest.mark.slow
@settings(FUZZ, max_examples=2000)
@given(st.data(), st.booleans())
def test_any_manifest_is_read_or_refused_at_length(directory, data, sealed):
    fuzz_manifest(directory, data, sealed=sealed)


@settings(FUZZ, max_examples=100)
@given(st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_no_manifest(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DataError):
        read_manifest(tmp_path)


def test_published_code_files_have_digests_when_asked(tmp_path, capsys):
    for kind in ("codes", "labels"):
        (tmp_path / f"x_{kind}").mkdir()
    for i in range(40):
        codes = np.random.default_rng(i).integers(0, 9, (1, 2, 4, 3))
        np.save(tmp_path / "x_codes" / f"{i}.npy", codes)
        np.save(tmp_path / "x_labels" / f"{i}.npy", np.array([i]))
    before = CodeFiles(tmp_path).digest
    arguments = ["--input", str(tmp_path)]
    assert verify.main(arguments) == REFUSED
    assert "--record writes those" in capsys.readouterr().err
    assert verify.main([*arguments, "--record"]) == 0
    recorded = CodeFiles(tmp_path)
    assert recorded.digest != before
    assert recorded.partly_verified
    odd, even = (tmp_path / "x_codes" / f"{i}.npy" for i in (1, 2))
    damage.swapped(odd, even)
    assert verify.main(arguments) == 1
    said = capsys.readouterr().err
    assert str(odd) in said
    assert str(even) in said
    with pytest.raises(CodeFileError, match=r"2\.npy does not have the digest"):
        CodeFiles(tmp_path).digest  # noqa: B018 of every second image of forty
    damage.swapped(odd, even)
    np.save(tmp_path / "x_codes" / "40.npy", codes)
    assert verify.main(arguments) == 1
    assert "40.npy is not in digests.sha256" in capsys.readouterr().err
    (tmp_path / "digests.sha256").write_text("nonsense\n")
    assert verify.main(arguments) == REFUSED
    assert "line 1 is no digest of a file" in capsys.readouterr().err
    prepared.make(tmp_path / "set")
    assert verify.main(["--input", str(tmp_path / "set"), "--record"]) == REFUSED
    assert "leave --record out" in capsys.readouterr().err
