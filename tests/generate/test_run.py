"""The command: drawing, answering, many at once, and its faults in sentences."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

from unitoken_jax.config import UserError
from unitoken_jax.generate import image_files, load
from unitoken_jax.generate import run as command
from unitoken_jax.parallel.mesh import MeshConfig, make_mesh
from unitoken_jax.train.experiment import build_experiment


@pytest.fixture
def flags(run_node, workdir):
    """Returns the options of a call."""
    common = {"config": run_node, "workdir": workdir, "compile_cache": ""}

    def given(**changes):
        for name in {"image", "output", "input", "workdir"} & changes.keys():
            changes[name] = Path(changes[name])
        return command.Options(**common | changes)

    return given


@pytest.fixture
def heart(tmp_path):
    path = tmp_path / "heart.png"
    pixels = np.random.default_rng(0).integers(0, 256, (9, 20, 4), np.uint8)
    Image.fromarray(pixels, "RGBA").save(path)
    return path


def test_draws_a_grid_and_answers_about_it(flags, tmp_path, capsys):
    path = tmp_path / "out.png"
    call = flags(prompt="a red heart", output=str(path), count=3, seed=5)
    command.run(call)
    with Image.open(path) as image:
        assert image.size == (16 * 2 + 2, 16 * 2 + 2)
        first = np.asarray(image)
    command.run(call)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), first)
    assert capsys.readouterr().out.split() == [str(path)] * 2
    command.run(flags(prompt="what is this?", image=str(path)))
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_many_at_once_keep_their_order_and_name_what_failed(
    flags, heart, tmp_path, capsys
):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image at all")
    asked = [
        {"prompt": "a blue bird"},
        {"prompt": "what is this?", "image": str(heart)},
        {"prompt": "what is this?", "image": str(broken)},
        {"prompt": "heart " * 100},
        {"prompt": "a tree", "output": str(tmp_path / "tree.webp"), "seed": 9},
        {"prompt": "color?", "image": str(tmp_path / "absent.png")},
        {"prompt": "heart " * 100, "image": str(heart)},
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n\n".join(map(json.dumps, asked)))
    with pytest.raises(UserError, match="4 of 7 requests could not be done"):
        command.run(flags(input=str(source), output=str(target)))
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert [a["prompt"] for a in answers] == [a["prompt"] for a in asked]
    assert answers[0]["output"] == str(tmp_path / "out-00001.png")
    assert isinstance(answers[1]["answer"], str)
    assert "broken.png is not an image" in answers[2]["error"]
    assert "shorten it" in answers[3]["error"]
    assert answers[4] == asked[4]
    assert [a.get("line") for a in answers] == [None, None, 5, 7, None, 11, 13]
    assert "absent.png cannot be read" in answers[5]["error"]
    assert "shorten it" in answers[6]["error"]
    for name in ("out-00001.png", "tree.webp"):
        with Image.open(tmp_path / name) as image:
            assert image.size == (16, 16)
    assert "3 of 7 done" in capsys.readouterr().out


def test_a_image_is_the_same_alone_and_in_company_on_eight_devices(workdir, run_node):
    sampler = load.load(workdir, build_experiment(run_node))
    prompts, seeds = ["a tree", "a blue bird on a tree", "heart"], [3, 4, 5]
    alone = sampler.draw(prompts[1:2], seeds[1:2])[0]
    mesh = make_mesh(MeshConfig())
    params, tokenizer_params = jax.device_put(
        (sampler.params, sampler.tokenizer_params),
        NamedSharding(mesh, PartitionSpec()),
    )
    eight = dataclasses.replace(
        sampler, params=params, tokenizer_params=tokenizer_params, mesh=mesh
    )
    together = eight.draw(prompts, seeds)
    assert len(together) == 3
    np.testing.assert_array_equal(alone, together[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "nothing to do"),
        ({"prompt": "a"}, "needs --output"),
        ({"prompt": "a", "output": "a.doc"}, "one of these endings"),
        ({"prompt": "a", "output": "none/a.png"}, "directory does not exist"),
        ({"prompt": "a", "output": "."}, "one of these endings"),
        ({"prompt": " ", "output": "a.png"}, "nothing to do"),
        ({"prompt": "\udcff", "output": "a.png"}, "--prompt is not text"),
        ({"prompt": "a", "image": "a.png", "count": 2}, "--count is of drawings"),
        ({"prompt": "a", "image": "a.png", "output": "b.png"}, "is printed"),
        ({"prompt": "a", "image": "nowhere.png"}, "nowhere.png cannot be read"),
        ({"input": "a.jsonl", "prompt": "b"}, "goes without"),
        ({"input": "a.jsonl"}, "needs --output"),
        ({"input": "a.jsonl", "output": "b.jsonl"}, "a.jsonl cannot be read"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, changes, message, monkeypatch):
    monkeypatch.setattr(command, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UserError, match=message):
        command.run(flags(**changes))


def test_nothing_is_loaded_for_requests_that_are_all_refused(
    flags, tmp_path, monkeypatch
):
    monkeypatch.setattr(command, "load", lambda *_, **__: pytest.fail("loaded"))
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": ""}\n[]')
    with pytest.raises(UserError, match="2 of 2 requests could not be done"):
        command.run(flags(input=str(source), output=str(target)))
    assert len(target.read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["exif6.jpg", "exif6.png"])
def test_what_a_user_hands_over_stands_upright(name, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = tmp_path / name
    Image.fromarray(pixels).save(path, exif=exif, quality=100)
    assert image_files.read(path).size == (6, 9)
    if name.endswith("png"):
        np.testing.assert_array_equal(image_files.read(path), np.rot90(pixels, -1))


def test_an_enormous_image_is_refused(flags, tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    Image.new("1", (9000, 8000)).save(path)
    with pytest.raises(UserError, match=r"huge.png.*72,000,000 pixels"):
        command.run(flags(prompt="what is this?", image=str(path)))


def test_a_prompt_longer_than_the_row_is_refused(flags, tmp_path):
    path = tmp_path / "out.png"
    with pytest.raises(UserError, match=r"room for .* in the rows of 96"):
        command.run(flags(prompt="a red heart " * 30, output=str(path)))
    assert not path.exists()


def test_a_missing_checkpoint_names_the_command(flags, tmp_path):
    call = flags(prompt="a", output=str(tmp_path / "a.png"), workdir=str(tmp_path))
    with pytest.raises(UserError, match=r"no checkpoint.*python -m unitoken_jax.train"):
        command.run(call)


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"model": "modle"}, "no stage 'modle'; did you mean 'model'"),
        ({"model": "siglip"}, "trains a siglip, but a unitoken, .* is needed"),
        ({"guidence": 2.0}, "did you mean 'guidance'"),
        ({"top_p": 0.0}, "top_p must lie in"),
        ({"lead": (-1,)}, "lead holds ids"),
        ({"guidance_interval": -2}, "guidance_interval must be"),
        ({"unconditional": "none"}, "not among the choices"),
    ],
)
def test_wrong_generation_fields_are_refused(flags, run_node, generation, message):
    node = run_node | {"generation": generation}
    with pytest.raises(UserError, match=message):
        command.run(flags(config=node, prompt="a", output="a.png"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("guidance", v) for v in (np.nan, np.inf, -np.inf, 1e30)),
        *(("temperature", v) for v in (np.nan, np.inf, -0.1, 1e-30)),
        *(("top_p", v) for v in (np.nan, np.inf, -0.1, 1.1, 0.0)),
        ("top_k", -1),
    ],
)
def test_numbers_out_of_range_are_refused(flags, name, value, monkeypatch):
    monkeypatch.setattr(load, "restore", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError, match=name):
        command.run(flags(prompt="a", output="a.png", **{name: value}))


def test_a_checkpoint_of_another_config_is_refused(flags, run_node):
    stages = dict(run_node["stages"])
    decoder = stages["model"]["model"]["decoder"] | {"layers": 3}
    model = stages["model"]["model"] | {"decoder": decoder}
    stages["model"] = stages["model"] | {"model": model}
    node = run_node | {"stages": stages}
    with pytest.raises(UserError, match="made with another config: 'decoder/"):
        command.run(flags(config=node, prompt="a", output="a.png"))
