"""The whole preparation on tiny zips: determinism, no leakage, faults, full disks."""

import json
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import crafted
import pytest

from data_pipelines.images import decoding
from data_pipelines.prepare.__main__ import main
from data_pipelines.prepare.job import PrepareConfig, PrepareError, prepare
from data_pipelines.prepare.split import concept_key
from data_pipelines.storage.directory import DirectoryError
from data_pipelines.storage.shards import Split
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary
from unitoken_jax.errors import REFUSED, UserError

CONFIG = PrepareConfig(
    heldout_fraction=0.3,
    train_scenes=40,
    heldout_scenes=20,
    num_codes=32,
    vocabulary_size=400,
    shards=2,
)


@pytest.fixture
def prepared(tmp_path, make_zip):
    prepare(make_zip(), tmp_path / "set", CONFIG)
    return tmp_path / "set"


def test_everything_is_there(prepared, lines):
    train, heldout = Split(prepared, "train"), Split(prepared, "heldout", verify=True)
    counts = train.manifest.counts
    assert counts["rejected"] == 0
    assert counts["train"]["records"] == len(train)
    assert counts["train"]["pictures"] + counts["heldout"]["pictures"] == len(lines)
    assert sum(counts["train"]["scenes"].values()) == 40
    ids = [record["id"] for split in (train, heldout) for record in split]
    assert len(set(ids)) == len(ids)
    vocabulary = ChameleonVocabulary.from_file(prepared / "tokenizer.json")
    assert (vocabulary.num_codes, vocabulary.size) == (32, 400)
    for record in train:
        for text in record["captions"]:
            assert vocabulary.decode(vocabulary.encode(text)) == text


def test_no_concept_stands_in_two_splits(prepared):
    train, heldout = Split(prepared, "train"), Split(prepared, "heldout")
    concepts = {record["group"] for record in train}
    assert not concepts & {record["group"] for record in heldout}
    keys = {concept_key(r["group"]) for r in train if r["category"] != "scene"}
    held = {concept_key(r["group"]) for r in heldout if r["category"] != "scene"}
    assert not keys & held


def test_scenes_show_only_things_of_their_split(prepared):
    words = {}
    for name in ("train", "heldout"):
        split = [r for r in Split(prepared, name) if r["category"] != "scene"]
        words[name] = {word for r in split for word in r["captions"][0].split()}
    for record in Split(prepared, "train"):
        if record["category"] == "scene":
            novelty, *shown = record["keywords"]
            assert novelty == "seen"
            assert {noun.split()[-1] for noun in shown} <= words["train"]
    novelties = set()
    for record in Split(prepared, "heldout"):
        if record["category"] == "scene":
            novelty, *shown = record["keywords"]
            novelties.add(novelty)
            of = "heldout" if novelty == "held-out concepts" else "train"
            assert {noun.split()[-1] for noun in shown} <= words[of]
    assert novelties == {"held-out concepts", "held-out composition"}


def test_same_input_and_options_give_the_same_bytes(tmp_path, make_zip, caplog):
    path = make_zip()
    first = prepare(path, tmp_path / "a", CONFIG)
    assert prepare(path, tmp_path / "b", CONFIG) == first
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()}
    with caplog.at_level("INFO"):
        assert prepare(path, tmp_path / "a", CONFIG) == first
    assert "up to date" in caplog.text
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()}


def test_another_seed_is_refused_without_overwrite(prepared, make_zip):
    other = replace(CONFIG, seed=1)
    digest = Split(prepared, "train").manifest.digest
    with pytest.raises(DirectoryError, match="--overwrite"):
        prepare(make_zip(), prepared, other)
    assert Split(prepared, "train").manifest.digest == digest
    assert prepare(make_zip(), prepared, other, overwrite=True).digest != digest


def test_bad_records_are_counted_and_listed(tmp_path, make_zip, lines):
    broken = lines[3]["image"]
    entries = [*lines, {k: v for k, v in lines[0].items() if k != "caption"}]
    path = make_zip(entries, {broken: b"no picture"})
    manifest = prepare(path, tmp_path / "set", CONFIG)
    listing = (tmp_path / "set" / "rejected.jsonl").read_text().splitlines()
    rejected = [json.loads(line) for line in listing]
    assert manifest.counts["rejected"] == len(rejected) == 2
    assert list(manifest.rejected) == rejected
    assert [entry["record"] for entry in rejected] == [
        broken,
        f"captions.jsonl, line {len(entries)}",
    ]
    assert "not an image" in rejected[0]["reason"]
    assert rejected[1]["reason"] == "the caption is missing"
    ids = [r["id"] for name in manifest.splits for r in Split(tmp_path / "set", name)]
    assert broken.removesuffix(".webp") not in ids


def test_too_many_bad_records_are_fatal(tmp_path, make_zip, lines):
    files = {entry["image"]: b"" for entry in lines[:10]}
    reasons = r"10 of \d+ lines cannot be used.*reasons: 10 × .*is not an image"
    with pytest.raises(PrepareError, match=reasons):
        prepare(make_zip(files=files), tmp_path / "set", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.zip"]


def test_a_single_bad_record_is_fatal_only_on_request(tmp_path, make_zip, lines):
    path = make_zip(["{", *lines[:8]])  # a ninth of all
    config = replace(CONFIG, heldout_scenes=0, train_scenes=0)
    assert prepare(path, tmp_path / "set", config).counts["rejected"] == 1
    with pytest.raises(PrepareError, match="1 of 9 lines cannot be used"):
        prepare(path, tmp_path / "none", replace(config, max_rejected=0.0))
    with pytest.raises(PrepareError, match="2 of 9 lines cannot be used"):
        prepare(make_zip(["{", "[", *lines[:7]]), tmp_path / "none", config)


def test_whatever_is_wrong_with_a_line_the_others_go_on(tmp_path, make_zip, lines):
    """Faults that once ended the whole preparation."""
    name = lines[5]["image"]
    text = json.dumps(lines[2])
    entries = [
        *lines[3:],
        lines[0] | {"caption": "&nbsp;"},
        lines[1] | {"concept": "&nbsp;"},
        text.replace('"caption": "', r'"caption": "\ud83d'),
        "[" * 100_000,
    ]
    palette = crafted.png((3, 1), 8, 3, [bytes([0, 1, 2])])
    manifest = prepare(make_zip(entries, {name: palette}), tmp_path / "set", CONFIG)
    rejected = [
        json.loads(line)
        for line in (tmp_path / "set" / "rejected.jsonl").read_text().splitlines()
    ]
    reasons = ["picture is damaged", "caption is not a text", "concept is not a text"]
    reasons += ["surrogate pair", "nested too deeply"]
    assert len(rejected) == len(reasons) == manifest.counts["rejected"]
    for entry, reason in zip(rejected, reasons, strict=True):
        assert reason in entry["reason"]
    assert rejected[0]["record"] == name
    assert rejected[3]["record"] == f"captions.jsonl, line {len(entries) - 1}"


def test_pictures_whose_names_differ_in_the_suffix(tmp_path, make_zip, lines):
    files = {"a/x.png": crafted.encoded(crafted.corners(), "PNG")}
    files["a/x.jpg"] = crafted.turned(2, "JPEG")
    entries = [
        lines[0] | {"image": image, "concept": f"thing {number}"}
        for number, image in enumerate(files)
    ]
    prepare(make_zip([*lines, *entries], files), tmp_path / "set", CONFIG)
    ids = [
        record["id"]
        for split in ("train", "heldout")
        for record in Split(tmp_path / "set", split)
    ]
    assert len({identity.casefold() for identity in ids}) == len(ids)
    assert {"a/x.png", "a/x.jpg"} <= set(ids)


def test_equal_pictures_stand_in_one_split(tmp_path, make_zip, lines):
    data = crafted.encoded(crafted.corners(), "PNG")
    files = {f"equal/{number}.png": data for number in range(20)}
    entries = [
        lines[0] | {"image": image, "concept": f"{number} things"}
        for number, image in enumerate(files)
    ]
    config = replace(CONFIG, duplicate_distance=0.0)
    manifest = prepare(make_zip([*lines, *entries], files), tmp_path / "set", config)
    assert manifest.counts["pictures equal to another"] == 19
    found = {
        split: sum(
            r["images"][0]["bytes"] == data for r in Split(tmp_path / "set", split)
        )
        for split in ("train", "heldout")
    }
    assert sorted(found.values()) == [0, 20]


@pytest.mark.parametrize("policy", ["released", "upright"])
def test_orientation_is_recorded_and_stored(tmp_path, make_zip, lines, policy, caplog):
    files = {lines[0]["image"]: crafted.turned(6)}
    config = replace(CONFIG, image_policy=policy)
    manifest = prepare(make_zip(files=files), tmp_path / "set", config)
    assert manifest.provenance["options"]["image_policy"] == policy
    assert manifest.counts["turned by EXIF"] == 1
    assert ("--image_policy upright" in caplog.text) == (policy == "released")
    every = [r for s in ("train", "heldout") for r in Split(tmp_path / "set", s)]
    (record,) = [r for r in every if r["id"] == lines[0]["image"].split(".")[0]]
    size = (24, 16) if policy == "released" else (16, 24)
    assert (record["images"][0]["width"], record["images"][0]["height"]) == size
    assert decoding.decode_image(record).size == size


def test_a_folder_of_something_else_is_not_replaced(tmp_path, make_zip):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis").touch()
    with pytest.raises(DirectoryError, match=r"holds no manifest\.json"):
        prepare(make_zip(), tmp_path / "home", CONFIG, overwrite=True)
    assert (tmp_path / "home" / "thesis").exists()


def test_an_empty_list_is_refused(tmp_path, make_zip):
    with pytest.raises(PrepareError, match="the list of pictures is empty"):
        prepare(make_zip([]), tmp_path / "set", CONFIG)


def test_nothing_held_out_is_refused(tmp_path, make_zip):
    config = replace(CONFIG, heldout_fraction=0.0, heldout_scenes=0)
    with pytest.raises(PrepareError, match="no record falls into the split 'heldout'"):
        prepare(make_zip(), tmp_path / "set", config)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heldout_fraction": 1.0}, "heldout_fraction must be in"),
        ({"image_size": 60}, "multiple of 16"),
        ({"shards": 0}, "shards must be at least 1"),
        ({"train_scenes": -1}, "train_scenes must not be negative"),
        ({"vocabulary_size": 600}, "leaves .* pieces"),
        ({"heldout_fraction": float("nan")}, "heldout_fraction must be in"),
        ({"max_pixels": 10**9}, "max_pixels must be at most 67,108,864"),
        ({"num_codes": 10**9}, "num_codes must be at most 65,536"),
        ({"seed": -1}, "--seed: must be at least 0"),
        ({"seed": 2**32}, "--seed: must be at least 0 and at most 4294967295"),
        ({"image_policy": "sideways"}, "must be released or upright"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        PrepareConfig(**options)


def test_command_line(tmp_path, make_zip, capsys):
    arguments = ["--input", str(make_zip()), "--output", str(tmp_path / "set")]
    arguments += ["--train_scenes", "8", "--heldout_scenes", "4"]
    assert main(arguments) == 0
    assert "train: " in capsys.readouterr().out
    assert main([*arguments, "--seed", "2"]) == REFUSED
    assert "give --overwrite to replace it" in capsys.readouterr().err
    assert main([*arguments, "--image_size", "7"]) == REFUSED
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--heldout_fraction" in capsys.readouterr().out


def test_full_disk_leaves_nothing_and_says_so(tmp_path, make_zip):
    """A limit on the size of files stands for the full disk: both fail in write()."""
    code = """
        import resource, signal, sys
        from data_pipelines.prepare.__main__ import main
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, 80_000))
        sys.exit(main(sys.argv[1:]))
    """
    run = subprocess.run(
        [
            *(sys.executable, "-c", textwrap.dedent(code)),
            *("--input", str(make_zip()), "--output", str(tmp_path / "set")),
            *("--train_scenes", "8", "--heldout_scenes", "4"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert run.returncode == 1
    assert "could not be written" in run.stderr
    assert "nothing was left behind" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.zip"]


def test_termination_leaves_nothing(tmp_path):
    root = Path(__file__).parents[3]
    # All pictures take long enough to be interrupted for sure.
    pictures = root / "data/pictures.zip"
    arguments = ["--input", str(pictures), "--output", str(tmp_path / "set")]
    process = subprocess.Popen(
        [sys.executable, "-m", "data_pipelines.prepare", *arguments],
        cwd=root,
        stderr=subprocess.DEVNULL,
    )
    partial = tmp_path / ".set.partial"
    deadline = time.monotonic() + 60
    while not partial.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.terminate()
    assert process.wait(timeout=60) != 0
    assert not list(tmp_path.iterdir())
