"""UniTok's LLM and LlamaGen through the training command's parts: tokenizer to report.

A chain of a tiny UniTok, an LLM and a generator over its codes; and the trainer's
update on the golden batches of the published code.
"""

import copy
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_chain
from PIL import Image

from data_pipelines.storage import records
from data_pipelines.storage.shards import Split
from tests.models import golden, test_llamagen, test_unitok, test_unitok_mllm
from unitoken_jax.checkpoint.state import create
from unitoken_jax.config import ConfigError, UserError, plain
from unitoken_jax.convert.published import llamagen as llamagen_tables
from unitoken_jax.convert.published import unitok as unitok_tables
from unitoken_jax.convert.published import unitok_mllm as mllm_tables
from unitoken_jax.convert.table import export_tensors, import_tensors
from unitoken_jax.evaluate import evaluator
from unitoken_jax.evaluate.run import run as evaluate
from unitoken_jax.generate import load
from unitoken_jax.generate import run as generate
from unitoken_jax.models import registry
from unitoken_jax.parallel import rules
from unitoken_jax.parallel.mesh import MeshConfig, make_mesh
from unitoken_jax.pipeline import train
from unitoken_jax.runtime.pytree import flatten
from unitoken_jax.train.experiment import build_experiment
from unitoken_jax.train.update.optimizer import OptimizerConfig, make_optimizer
from unitoken_jax.train.update.step import make_update

IMAGE, BOOKS, CODES = 16, 2, 8
STEPS = 2


def chain(data_dir, vocabulary):
    """The config of three stages over the squares."""
    small = {"hidden": 16, "layers": 1, "heads": 2, "mlp": 16}
    tokenizer = {
        "kind": "unitok",
        "vision": small | {"widths": (4,), "depths": (1,), "drop_path": 0.0},
        "text": small | {"vocab_size": 8, "length": 4, "embed": 8},
        "vocab_size": BOOKS * CODES,
        "vocab_width": 8,
        "num_codebooks": BOOKS,
        "objective": {"supervision": "reconstruction", "perceptual": 0.0},
    }
    decoder = {"vocab_size": vocabulary.size, "hidden": 16, "intermediate": 24}
    decoder |= {"layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 8, "qk_norm": False}
    mllm = {"kind": "unitok_mllm", "decoder": decoder, "codebooks": BOOKS}
    mllm |= {"codes": CODES, "code_width": 4, "projection": 16, "projection_heads": 2}
    llamagen = {"kind": "llamagen", "hidden": 16, "layers": 1, "heads": 2, "side": 2}
    llamagen |= {"classes": 1, "null_class": True, "class_dropout": 0.5}
    llamagen |= {"codebooks": BOOKS, "codes": CODES, "depth_layers": 1}
    still = {"pattern": "embedder/quantizer/.*", "frozen": True}
    rest = {"pattern": ".*", "exclude": "embedder/quantizer/.*"}
    usage = {"pattern": ".*/usage", "frozen": True}
    prompts = {"request": "{caption}", "question": "<|image|>{question}"}
    stages = {
        "tokenizer": {
            "model": tokenizer,
            "data": {"kind": "images", "image_size": IMAGE},
            "groups": {
                "all": {"pattern": ".*", "exclude": ".*/usage"},
                "usage": usage,
            },
        },
        "mllm": {
            "model": mllm | {"depth_layers": 1},
            "codes": {"stage": "tokenizer"},
            "init": {"embedder/quantizer": "tokenizer:quantizer"},
            "data": {
                "kind": "unitok_mllm",
                "image_size": IMAGE,
                "row_length": 96,
                "row_views": 3,
                "prompts": prompts,
            },
            "groups": {"still": still, "rest": rest},
        },
        "llamagen": {
            "model": llamagen,
            "codes": {"stage": "tokenizer"},
            "data": {"kind": "classes", "image_size": IMAGE},
            "groups": {"all": {"pattern": ".*"}},
        },
    }
    for number, stage in enumerate(stages.values()):
        optimizer = {"learning_rate": 1e-2, "groups": stage.pop("groups")}
        steps = {"steps": STEPS, "batch": 8, "log_every": 1}
        stage |= {"seed": number, "optimizer": optimizer, "train": steps}
    return {
        "name": "generators",
        "data_dir": str(data_dir),
        "order": tuple(stages),
        "stages": stages,
        "generation": {"model": "mllm", "guidance": 7.0, "batch": 2, "answer_limit": 3},
        "evaluation": {
            "reconstruction": None,
            "zero_shot": None,
            "retrieval": None,
            "perception": None,
            "classes": None,
            "understanding": {"questions": 2},
            "generation": {"images": 2, "drawings": 1, "captions": 2},
        },
    }


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    directory = tmp_path_factory.mktemp("squares") / "data"
    return chain(directory, tiny_chain.make_data(directory))


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Programs that run twice are not worth optimizing, nor spreading over devices."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (load, evaluator):
            one = partial(module.make_mesh, devices=jax.devices()[:1])
            patch.setattr(module, "make_mesh", one)
        yield


@pytest.fixture(scope="module")
def workdir(node, tmp_path_factory):
    """A complete run."""
    directory = tmp_path_factory.mktemp("run") / "generators"
    assert train(build_experiment(node), directory)
    return directory


@pytest.mark.slow
def test_stages_learn_and_the_page_shows_drawings(node, workdir):
    lines = {}
    for name in node["order"]:
        rows = (workdir / name / "metrics.jsonl").read_text().splitlines()
        assert len(rows) == STEPS
        lines[name] = json.loads(rows[-1])
    assert {"text_loss", "image_loss", "image_z"} <= lines["mllm"].keys()
    assert {"loss", "accuracy", "images_per_second"} <= lines["llamagen"].keys()
    (codes,) = (workdir / "codes").iterdir()
    with_codes = Split(codes, "train")
    shape = records.codes_of(with_codes[0]).shape
    assert shape == (IMAGE // 8, IMAGE // 8, BOOKS)
    with_codes.close()
    found = json.loads((workdir / "evaluation" / "default.json").read_text())
    assert found["generation"]["samples"]["drawings"][0]["prompt"]
    assert found["understanding"]["measures"]
    assert "Drawn from the prompt alone" in (workdir / "report.html").read_text()


def _generation(node, model):
    """The fields of a model's drawings; LlamaGen answers nothing that had a limit."""
    fields = node["generation"] | {"model": model}
    if model == "llamagen":
        del fields["answer_limit"]
    return fields


@pytest.mark.slow
def test_classes_are_told_apart_and_drawn(node, workdir):
    chosen = {"classes": {"images": 3, "drawings": 2}}
    changed = node | {
        "generation": _generation(node, "llamagen"),
        "evaluation": dict.fromkeys(node["evaluation"]) | chosen,
    }
    found = evaluate(build_experiment(changed), workdir)["classes"]
    assert found["measures"]["class_rank"]["value"] == 1.0  # there is but one
    assert found["measures"]["bits_per_code"]["value"] > 0
    assert [item["prompt"] for item in found["samples"]["drawings"]] == ["squares"] * 2


@pytest.fixture
def flags(node, workdir):
    def given(model, **changes):
        config = node | {"generation": _generation(node, model)}
        for name in {"image", "output", "input"} & changes.keys():
            changes[name] = Path(changes[name])
        return generate.Options(workdir, config, compile_cache="", **changes)

    return given


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "prompt"),
    [("mllm", "a red square"), ("llamagen", "squares"), ("llamagen", "0")],
)
def test_the_command_draws(flags, tmp_path, model, prompt):
    paths = [tmp_path / name for name in ("one.png", "again.png")]
    for path in paths:
        generate.run(flags(model, prompt=prompt, output=str(path), count=2, seed=3))
    pictures = [np.asarray(Image.open(path)) for path in paths]
    assert pictures[0].shape == (IMAGE, 2 * IMAGE + 2, 3)
    np.testing.assert_array_equal(*pictures)


@pytest.mark.slow
def test_the_command_answers_and_refuses(flags, tmp_path, capsys):
    path = tmp_path / "grey.png"
    Image.new("RGB", (9, 5), "grey").save(path)
    for question in ("what is this?", "describe the image."):
        generate.run(flags("mllm", prompt=question, image=str(path)))
    assert len(capsys.readouterr().out.splitlines()) == 2
    with pytest.raises(UserError, match="answers no questions"):
        generate.run(flags("llamagen", prompt="squares", image=str(path)))
    output = str(tmp_path / "none.png")
    with pytest.raises(UserError, match="no class 'circles'; give a number 0 … 0, or"):
        generate.run(flags("llamagen", prompt="circles", output=output))
    with pytest.raises(UserError, match="rows of 96; shorten it"):
        generate.run(flags("mllm", prompt="square " * 99, output=output))


@pytest.mark.slow
def test_many_at_once_name_what_failed(flags, tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "squares"}\n{"prompt": "circles"}\n{"prompt": "0"}')
    with pytest.raises(UserError, match="1 of 3 requests could not be done"):
        generate.run(flags("llamagen", input=str(source), output=str(target)))
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert ["error" in answer for answer in answers] == [False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("mllm.codebooks", 3, "codebooks is 3, the data set has 2"),
        ("mllm.codes", 9, "model.codes is 9, the data set has 8"),
        ("mllm.decoder.vocab_size", 9, "vocab_size is 9, the data set's"),
        ("llamagen.side", 3, "model.tokens is 9, the data set has 4"),
        ("llamagen.classes", 3, "model.classes is 3, the data set has 1"),
    ],
)
def test_a_model_must_fit_the_codes(node, workdir, tmp_path, *, path, value, sentence):
    """With the trained tokenizer in place, before anything else is done."""
    for name in ("codes", "tokenizer"):
        (tmp_path / name).symlink_to(workdir / name)
    changed = copy.deepcopy(node)
    stage, *parents, last = path.split(".")
    changed["stages"][stage]["init"] = {}
    inner = changed["stages"][stage]["model"]
    for name in parents:
        inner = inner[name]
    inner[last] = value
    changed["stages"][stage]["train"]["steps"] = STEPS + 1
    with pytest.raises(ConfigError, match=sentence):
        train(build_experiment(changed), tmp_path, stage)


def golden_mllm():
    config = test_unitok_mllm.published_config()
    weights = golden.tensors(test_unitok_mllm.CASE, "weights")
    table, counts = mllm_tables.table(config), mllm_tables.counts(config)
    params = import_tensors(table, weights, test_unitok_mllm.abstract(config), counts)
    batch, _ = test_unitok_mllm.packed([[3, 0], [2, 1]], 56, 2)
    constant = ("vocab_usage", "zero_k_bias")
    return "unitok_mllm", config, params, batch, table, counts, constant


def golden_llamagen():
    config = test_llamagen.published_config()
    weights = golden.tensors(test_llamagen.CASE, "weights")
    table, counts = llamagen_tables.table(config), llamagen_tables.counts(config)
    params = import_tensors(table, weights, test_llamagen.abstract(config), counts)
    stored = golden.tensors(test_llamagen.CASE, "activations")
    batch = {
        "label": stored["classes"].astype(np.int32),
        "codes": stored["codes"].astype(np.int32).swapaxes(1, 2),
    }
    return "llamagen", config, params, batch, table, counts, ()


def golden_unitok():
    case = test_unitok.CASES[0]
    config = test_unitok.config_of(case)
    params = test_unitok.weights(case, config)
    stored = golden.tensors(case, "activations")
    images = golden.channels_last(stored["image"])
    # The training's loss takes bytes; these are their values before it scales them.
    pixels = (images * 0.5 + 0.5) * 255
    batch = {"image": pixels, "text": stored["text"].astype(np.int32)}
    table, counts = unitok_tables.table(config), unitok_tables.counts(config)
    constant = ("vocab_usage", "zero_k_bias", "encoder.pos_embed")
    return "unitok", config, params, batch, table, counts, constant


def published_results(kind):
    """Loss, and gradients by their published names."""
    stored = golden.tensors(f"{kind}_tiny", "activations")
    if kind == "unitok":
        loss = sum(stored[f"{term}_loss"] for term in ("l1", "vq", "clip"))
        stored = golden.tensors("unitok_tiny", "gradients")
    else:
        loss = stored["loss"]
    return loss, {k[5:]: v for k, v in stored.items() if k.startswith("grad.")}


@pytest.mark.parametrize(
    ("case", "divided"),
    [
        pytest.param(golden_mllm, True, id="mllm-eight"),
        pytest.param(golden_llamagen, True, id="llamagen-eight"),
        pytest.param(golden_unitok, False, id="unitok-one"),
    ],
)
def test_the_trainers_update_has_the_published_loss_and_gradients(case, divided):
    """Gradients g are read off the steps of the jitted update.

    Adam with b1 = 0 and eps = 1 moves a parameter by u = g / (|g| + 1).
    """
    kind, config, params, batch, table, counts, constant = case()
    loss, expected = published_results(kind)
    system = registry.build({"kind": kind, **plain(config)})
    shapes = registry.abstract_params(system)
    options = OptimizerConfig(1.0, schedule="constant", b1=0.0, eps=1.0, clip=None)
    rule = make_optimizer(options, flatten(shapes), 10)
    update = make_update(system.loss, rule)
    params = jax.tree.map(jnp.asarray, params)

    def run(params, batch):
        state = create(lambda _: params, rule.init, jax.random.key(0))
        new, metrics = update(state, batch, jax.random.key(0))
        return jax.tree.map(gradient, params, new.params), metrics

    def gradient(old, new):
        step = old - new
        return step / (1 - jnp.abs(step))

    if divided:
        mesh = make_mesh(MeshConfig(fsdp=2, tensor=2, sequence=2))
        placed = rules.shardings(registry.logical_axes(system), shapes, mesh)
        params = jax.device_put(params, placed)
        batch = jax.device_put(batch, rules.batch_shardings(batch, mesh))
        with jax.set_mesh(mesh):
            moved, metrics = jax.jit(run)(params, batch)
    else:
        moved, metrics = jax.jit(run)(params, batch)
    golden.assert_close(metrics["loss"], loss)
    found = export_tensors(table, jax.device_get(moved), counts)
    squares = sum(
        float(np.sum(np.square(v, dtype=np.float64))) for v in expected.values()
    )
    assert float(metrics["grad_norm"]) == pytest.approx(squares**0.5, rel=1e-4)
    for key in [key for key in found if key.endswith(constant)] if constant else []:
        assert not found.pop(key).any()
    assert found.keys() == expected.keys()
    # A difference of float32 parameters has lost digits, and so has a sum of gradients
    # that nearly cancel.
    for key, value in expected.items():
        lost = 1e-6 + 1e-5 * np.abs(value).max()
        np.testing.assert_allclose(found[key], value, 1e-3, lost, err_msg=key)


def test_a_packed_row_has_the_loss_of_its_samples_alone():
    """Cross-entropies of packed rows are those of one sample a row, summed."""
    kind, config, params, *_ = golden_mllm()
    system = registry.build({"kind": kind, **plain(config)})
    run = jax.jit(system.loss)
    packed, _ = test_unitok_mllm.packed([[3, 0], [2, 1]], 56, 2)
    alone, _ = test_unitok_mllm.packed([[0], [1], [2], [3]], 56, 2)
    key = jax.random.key(0)
    (one, metrics), (other, separate) = (
        run(params, packed, key),
        run(params, alone, key),
    )
    np.testing.assert_allclose(one, other, rtol=1e-5)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, separate[name], rtol=1e-5, err_msg=name)
