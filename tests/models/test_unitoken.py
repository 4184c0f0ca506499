"""UniToken against the published code, packed or not, under scan and remat."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from data_pipelines.anyres import (
    UNITOKEN_GRIDS,
    ViewsConfig,
    continuous_slots,
    move_slots,
)
from data_pipelines.sequence import shift_labels, splice
from tests.models import golden
from unitoken_jax.convert import unitoken as tables
from unitoken_jax.convert.table import export_tensors, import_tensors
from unitoken_jax.models import registry, unitoken
from unitoken_jax.models.chameleon import ChameleonConfig
from unitoken_jax.models.siglip import SiglipVisionConfig
from unitoken_jax.models.unitoken import UniTokenConfig

CASE = "unitoken_anyres_tiny"
IDS = SimpleNamespace(eoi=8196, sep=8198, newline=8803)


def published_config():
    values = golden.settings(CASE)
    return UniTokenConfig(
        decoder=ChameleonConfig(
            vocab_size=values["vocab_size"],
            hidden=values["hidden_size"],
            intermediate=values["intermediate_size"],
            layers=values["num_hidden_layers"],
            heads=values["num_attention_heads"],
            kv_heads=values["num_key_value_heads"],
            head_dim=values["hidden_size"] // values["num_attention_heads"],
            remat="full",
        ),
        vision=SiglipVisionConfig(
            hidden=values["vit_hidden"],
            mlp=2 * values["vit_hidden"],
            layers=values["vit_layers"],
            heads=values["vit_heads"],
            image=values["vit_image"],
            remat="full",
        ),
        loss_chunk=40,
    )


def published_params(config):
    abstract = registry.abstract_params(registry.build(kind(config)))
    return import_tensors(
        tables.table(config),
        golden.tensors(CASE, "weights"),
        abstract,
        tables.counts(config),
    )


def kind(config):
    return {"kind": "unitoken", **dataclasses.asdict(config)}


def samples():
    """The four samples spliced, and their views as floats [M, H, W, 3]."""
    stored = golden.tensors(CASE, "activations")
    views = ViewsConfig(golden.settings(CASE)["vit_image"], 14, UNITOKEN_GRIDS)
    for i in range(4):
        height, width, _ = stored[f"raw.{i}"].shape
        tokens, labels = (stored[f"{name}.{i}"] for name in ("tokens", "labels"))
        block = continuous_slots(width, height, views)
        labels = np.maximum(labels, -1).astype(np.int32)
        sample = splice(tokens.astype(np.int32), labels, [block], IDS, "released")
        yield sample, golden.channels_last(stored[f"pixels.{i}"])


def packed(rows, length):
    """A batch whose rows hold the samples numbered in `rows`."""
    all_samples = list(samples())
    views = max(sum(len(all_samples[i][1]) for i in row) for row in rows)
    batch = {
        name: np.full((len(rows), length), fill, np.int32)
        for name, fill in (
            ("tokens", 0),
            ("segment_ids", 0),
            ("positions", 0),
            ("targets", -1),
            ("slots", -1),
        )
    }
    batch["pixels"] = np.zeros((len(rows), views, 56, 56, 3), np.float32)
    places = {}
    for row, numbers in enumerate(rows):
        start = seen = 0
        for segment, number in enumerate(numbers, 1):
            sample, pictures = all_samples[number]
            place = slice(start, start + len(sample.tokens))
            places[number] = (row, place)
            batch["tokens"][row, place] = sample.tokens
            batch["segment_ids"][row, place] = segment
            batch["positions"][row, place] = np.arange(len(sample.tokens))
            batch["targets"][row, place] = shift_labels(sample.labels)
            batch["slots"][row, place] = move_slots(sample.slots, 16 * seen)
            batch["pixels"][row, seen : seen + len(pictures)] = pictures
            start, seen = place.stop, seen + len(pictures)
    return batch, places


@pytest.fixture(scope="module")
def published():
    config = published_config()
    return unitoken.UniToken(config), published_params(config)


@pytest.mark.parametrize(
    ("rows", "length"),
    [([[0], [1], [2], [3]], 133), ([[2, 0], [1, 3]], 270)],
    ids=["alone", "packed"],
)
def test_forward_and_loss_are_the_published_ones(published, rows, length):
    model, params = published
    stored = golden.tensors(CASE, "activations")
    batch, places = packed(rows, length)

    def run(module, batch):
        features = module.encode_pictures(batch["pixels"])
        embeddings = module.embed(batch["tokens"], batch["slots"], features)
        return embeddings, module.logits(module(batch))

    embeddings, logits = jax.jit(partial(model.apply, method=run))(
        {"params": params}, batch
    )
    stride = golden.settings(CASE)["logit_stride"]
    for number, (row, place) in places.items():
        real = slice(0, place.stop - place.start)
        golden.assert_close(
            embeddings[row, place], stored["inputs_embeds"][number, real]
        )
        golden.assert_close(
            logits[row, place, ::stride], stored["logits"][number, real]
        )
    total, metrics = jax.jit(partial(unitoken.loss, model))(
        params, batch, jax.random.key(0)
    )
    golden.assert_close(metrics["cross_entropy"], stored["loss"])
    golden.assert_close(metrics["z_loss"], stored["z_loss"])
    golden.assert_close(total, stored["loss"] + 1e-5 * stored["z_loss"])
    assert float(metrics["weight"]) == np.sum(stored["merged_labels"][:, 1:] >= 0)


def test_gradients_are_the_published_ones(published):
    model, params = published
    batch, _ = packed([[2, 0], [1, 3]], 270)
    gradients = jax.jit(
        jax.grad(
            lambda params: unitoken.loss(model, params, batch, jax.random.key(0))[0]
        )
    )(params)
    config = model.config
    found = export_tensors(tables.table(config), gradients, tables.counts(config))
    stored = golden.tensors(CASE, "gradients")
    unused = {key for key in found if key.startswith("vit.head.")}
    norms = {
        key.removeprefix("gradnorm."): value
        for key, value in stored.items()
        if key.startswith("gradnorm.")
    }
    small = {
        key.removeprefix("grad."): value
        for key, value in stored.items()
        if key.startswith("grad.")
    }
    assert set(norms) == set(found) - unused
    assert all(not found[key].any() for key in unused)
    golden.assert_gradients(
        {key: np.linalg.norm(found[key].ravel()) for key in norms}, norms
    )
    golden.assert_gradients({key: found[key] for key in small}, small)
