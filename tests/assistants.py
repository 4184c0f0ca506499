"""A tiny UniToken with random weights, its tokenizer and its rules."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import prepared
import pytest

from data_pipelines.images.anyres import ViewsConfig
from data_pipelines.storage import records
from data_pipelines.storage.manifest import Manifest, file_digest
from data_pipelines.storage.shards import write_split
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary, train_vocabulary
from data_pipelines.unitoken.rows import SequencesConfig
from data_pipelines.unitoken.sequence import LayoutConfig
from unitoken_jax.checkpoint import state
from unitoken_jax.checkpoint.manager import CheckpointConfig, Checkpointer
from unitoken_jax.evaluate import evaluator
from unitoken_jax.generate import load as generate
from unitoken_jax.models import registry
from unitoken_jax.train.experiment import build_experiment

CODES = 16
LONGEST = 80
DATA = SequencesConfig(
    image_size=16,
    row_length=96,
    views=ViewsConfig(size=16, patch=8),
    layout=LayoutConfig(size_tokens=False, code_stride=4, prompt_template="{caption}"),
)


DECODER = {
    "hidden": 32,
    "intermediate": 48,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
}
VISION = {"hidden": 16, "mlp": 24, "layers": 1, "heads": 2, "image": 16, "patch": 8}
VQGAN = {
    "kind": "vqgan",
    "resolution": 16,
    "ch": 4,
    "ch_mult": (1, 2, 2),
    "num_res_blocks": 1,
    "z_channels": 4,
    "embed_dim": 4,
    "n_embed": CODES,
    "num_groups": 2,
}


def unitoken_node(vocabulary):
    return {
        "kind": "unitoken",
        "decoder": {**DECODER, "vocab_size": vocabulary.size},
        "vision": {**VISION, "head": False},
        "first_image_code": int(vocabulary.code_ids.min()),
        "last_image_code": int(vocabulary.code_ids.max()),
    }


def siglip_node(vocabulary):
    text = {"hidden": 16, "mlp": 24, "layers": 1, "heads": 2, "length": 12}
    return {
        "kind": "siglip",
        "vision": VISION,
        "text": {**text, "vocab_size": vocabulary.size, "pad": vocabulary.pad},
        "embed": 16,
    }


@pytest.fixture(scope="session")
def data_config():
    return DATA


@pytest.fixture(scope="session")
def vocabulary_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    texts = ["a red heart", "what is this?", "a blue bird on a tree"] * 4
    path.write_text(train_vocabulary(texts, CODES, 280, 4))
    return path


@pytest.fixture(scope="session")
def vocabulary(vocabulary_file):
    return ChameleonVocabulary.from_file(vocabulary_file)


@pytest.fixture(scope="session")
def unitoken(vocabulary):
    """The module and its parameters, large enough that logits differ clearly."""
    return _system(unitoken_node(vocabulary), 0)


@pytest.fixture(scope="session")
def tokenizer():
    return _system(VQGAN, 1)


@pytest.fixture(scope="session")
def siglip(vocabulary):
    return _system(siglip_node(vocabulary), 2)


def _system(node, seed):
    system = registry.build(node)
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        center = 1.0 if path[-1].key == "scale" else 0.0
        return rng.normal(center, 0.4, shape.shape).astype(np.float32)

    shapes = registry.abstract_params(system)
    params = jax.tree_util.tree_map_with_path(leaf, shapes)
    return system.module, jax.device_put(params)


@pytest.fixture(scope="session")
def next_logits(unitoken):
    """Logits [V] after a list of tokens, from one full forward pass of padded length.

    Padding stands behind the tokens, where a causal model cannot see it.
    """
    model, params = unitoken

    @jax.jit
    def run(tokens, slots, tiles, last):
        batch = {
            "tokens": tokens[None],
            "feature_index": slots[None],
            "positions": jnp.arange(LONGEST)[None],
            "segment_ids": jnp.ones((1, LONGEST), jnp.int32),
            "pixels": tiles[None],
        }
        hidden = model.apply({"params": params}, batch)
        return model.apply({"params": params}, hidden[0, last], method="logits")

    def logits(tokens, slots=(), tiles=None):
        room = np.zeros(LONGEST, np.int32)
        places = np.full(LONGEST, -1, np.int32)
        room[: len(tokens)] = tokens
        places[: len(slots)] = slots
        if tiles is None:
            tiles = np.zeros((1, 16, 16, 3), np.uint8)
        return run(room, places, tiles, len(tokens) - 1)

    return logits


@pytest.fixture(scope="session")
def sampler(run_node, workdir):
    """The run's sampler; it and the commands share what they compile."""
    return generate.load(workdir, build_experiment(run_node))


@pytest.fixture
def views(sampler):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    return [sampler.prompts.view(image) for image in images]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory, vocabulary_file):
    """A prepared data set of noise: 24 training and 12 held-out pictures."""
    directory = tmp_path_factory.mktemp("data")
    (directory / "tokenizer.json").write_bytes(vocabulary_file.read_bytes())
    splits = {}
    for split, start, count in (("train", 0, 24), ("heldout", 100, 12)):
        entries = [records.encode(_record(start + i)) for i in range(count)]
        splits[split] = write_split(directory, split, entries, count=count, shards=1)
    files = {"tokenizer.json": file_digest(directory / "tokenizer.json")}
    Manifest(splits, {"source": "test"}, {}, (), files).write(directory)
    return directory


def _record(index):
    made = prepared.record(index, np.random.default_rng(index))
    made["captions"] = [f"heart {index}", "a red heart"]
    made["questions"] = [
        {"kind": "name", "question": "what is this?", "answer": f"heart {index % 3}"},
        {"kind": "color", "question": "what color?", "answer": "red"},
    ]
    return made


@pytest.fixture(scope="session")
def run_node(data_dir, vocabulary):
    """The config of a run: a tokenizer, a SigLIP and a UniToken."""
    views = {"size": 16, "patch": 8}
    layout = {"size_tokens": False, "code_stride": 4, "prompt_template": "{caption}"}
    sequences = {"kind": "sequences", "image_size": 16, "row_length": 96}
    data = {
        "tokenizer": {"kind": "images", "image_size": 16},
        "siglip": {"kind": "pairs", "image_size": 16, "text_length": 12},
        "model": sequences | {"views": views, "layout": layout},
    }
    models = {
        "tokenizer": VQGAN,
        "siglip": siglip_node(vocabulary),
        "model": unitoken_node(vocabulary),
    }
    common = {
        "seed": 0,
        "optimizer": {"learning_rate": 1e-3},
        "train": {"steps": 1, "batch": 8},
    }
    stages = {
        name: common | {"model": models[name], "data": data[name]} for name in models
    }
    stages["model"]["codes"] = {"stage": "tokenizer"}
    return {
        "name": "tiny",
        "order": tuple(stages),
        "stages": stages,
        "data_dir": str(data_dir),
        "generation": {"batch": 1, "answer_limit": 4, "length_multiple": 64},
        "evaluation": {
            "reconstruction": {"images": 6, "batch": 4, "examples": 2},
            "retrieval": {"pairs": 8, "batch": 4, "examples": 1, "ranks": (1, 5)},
            "understanding": {"questions": 5, "examples": 2},
            "generation": {"images": 4, "captions": 2, "drawings": 3},
            "zero_shot": {"images": 6, "batch": 4, "examples": 1},
            "perception": {"alexnet": ""},
        },
    }


@pytest.fixture(scope="session", autouse=True)
def one_device():
    """Commands compute on one device: eight on two cores only take longer."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (generate, evaluator):
            one = partial(module.make_mesh, devices=jax.devices()[:1])
            patch.setattr(module, "make_mesh", one)
        yield


@pytest.fixture(scope="session")
def workdir(tmp_path_factory, run_node, tokenizer, siglip, unitoken):
    """A run directory with a checkpoint of each stage."""
    directory = tmp_path_factory.mktemp("run")
    systems = {"tokenizer": tokenizer, "siglip": siglip, "model": unitoken}
    for name, (_, params) in systems.items():
        saved = state.create(lambda _, p=params: p, lambda _: {}, jax.random.key(0))
        saver = Checkpointer(directory / name / "checkpoints", CheckpointConfig())
        saver.save(saved, 0, {})
        saver.close()
    return directory
