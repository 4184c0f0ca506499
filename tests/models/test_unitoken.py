"""UniToken against the published code, packed or not, under scan and remat."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from data_pipelines.images.anyres import (
    UNITOKEN_GRIDS,
    ViewsConfig,
    feature_indices,
    shift_features,
)
from data_pipelines.packing import shift_labels
from data_pipelines.unitoken.sequence import splice
from tests.models import golden
from tests.models.random_weights import random_weights
from unitoken_jax.convert.published import unitoken as tables
from unitoken_jax.convert.table import export_tensors, import_tensors
from unitoken_jax.models import registry, unitoken
from unitoken_jax.models.decoder import DecoderConfig
from unitoken_jax.models.siglip import SiglipVisionConfig
from unitoken_jax.models.unitoken import UniTokenConfig
from unitoken_jax.parallel import rules
from unitoken_jax.parallel.mesh import MeshConfig, make_mesh

CASE = "unitoken_anyres_tiny"
IDS = SimpleNamespace(eoi=8196, sep=8198, newline=8803)


def published_config():
    values = golden.settings(CASE)
    return UniTokenConfig(
        decoder=DecoderConfig(
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
        block = feature_indices(width, height, views)
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
            ("feature_index", -1),
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
            index = shift_features(sample.feature_index, 16 * seen)
            batch["feature_index"][row, place] = index
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
        features = module.embed_images(batch["pixels"])
        embeddings = module.embed(batch["tokens"], batch["feature_index"], features)
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


SMALL = UniTokenConfig(
    decoder=DecoderConfig(
        vocab_size=30,
        hidden=16,
        intermediate=24,
        layers=2,
        heads=2,
        kv_heads=2,
        head_dim=8,
    ),
    vision=SiglipVisionConfig(hidden=8, mlp=12, layers=1, heads=2, image=8, patch=4),
    first_image_code=4,
    last_image_code=19,
)


def small_batch():
    """One row: four codes, four features, two words; the codes and words are learnt."""
    tokens = [1, 5, 9, 13, 17, 2, 0, 0, 0, 0, 3, 25, 26, 3]
    labels = np.array([-1, 5, 9, 13, 17, -1, -1, -1, -1, -1, -1, 25, 26, 3], np.int32)
    slots = [-1] * 6 + [2, 1, 0, 3] + [-1] * 4
    rng = np.random.default_rng(0)
    return {
        "tokens": np.array([tokens], np.int32),
        "segment_ids": np.ones((1, 14), np.int32),
        "positions": np.arange(14, dtype=np.int32)[None],
        "targets": shift_labels(labels)[None],
        "feature_index": np.array([slots], np.int32),
        "pixels": rng.integers(0, 256, (1, 2, 8, 8, 3), np.uint8),
    }


def small(config=SMALL):
    abstract = registry.abstract_params(registry.build(kind(config)))
    return unitoken.UniToken(config), random_weights(abstract)


def test_metrics_tell_text_from_image():
    model, params = small()
    step = jax.jit(partial(unitoken.loss, model))
    total, metrics = step(params, small_batch(), jax.random.key(0))
    values = {name: float(value) for name, value in metrics.items()}
    assert (values["image_weight"], values["text_weight"], values["weight"]) == (
        4,
        3,
        7,
    )
    parts = (values[f"{n}_loss"] * values[f"{n}_weight"] for n in ("image", "text"))
    assert sum(parts) / 7 == pytest.approx(values["cross_entropy"], rel=1e-5)
    expected = values["cross_entropy"] + 1e-5 * values["z_loss"]
    assert float(total) == pytest.approx(expected, rel=1e-6)


def test_features_stand_where_their_slots_say():
    model, params = small()
    batch = small_batch()

    def run(module):
        features = module.embed_images(batch["pixels"])
        return features, module.embed(batch["tokens"], batch["feature_index"], features)

    features, embeddings = jax.jit(
        lambda params: model.apply({"params": params}, method=run)
    )(params)
    np.testing.assert_array_equal(embeddings[0, 6:10], features[0, [2, 1, 0, 3]])
    table = params["decoder"]["embedding"]["embedding"]
    np.testing.assert_array_equal(embeddings[0, :6], table[batch["tokens"][0, :6]])


def test_without_an_image_tower_codes_are_all_there_is():
    model, params = small(dataclasses.replace(SMALL, vision=None))
    assert set(params) == {"decoder"}
    batch = small_batch()
    step = jax.jit(partial(unitoken.loss, model))
    total, _ = step(params, batch, jax.random.key(0))
    del batch["pixels"], batch["feature_index"]
    assert float(step(params, batch, jax.random.key(0))[0]) == float(total)


def test_masked_image_codes_have_no_probability():
    model, params = small(dataclasses.replace(SMALL, mask_image_logits=True))
    batch = small_batch()
    batch["targets"] = np.where(batch["targets"] < 20, -1, batch["targets"])
    hidden = jax.jit(model.apply)({"params": params}, batch)
    logits = model.apply({"params": params}, hidden, method="logits")
    assert np.all(np.asarray(logits[..., 4:20]) == np.finfo(np.float32).min)
    logs = jax.nn.log_softmax(logits)[0]
    at = np.flatnonzero(batch["targets"][0] >= 0)
    expected = -np.mean(np.asarray(logs)[at, batch["targets"][0, at]])
    _, metrics = jax.jit(partial(unitoken.loss, model))(
        params, batch, jax.random.key(0)
    )
    assert float(metrics["cross_entropy"]) == pytest.approx(expected, rel=1e-5)


def test_image_codes_must_lie_in_the_vocabulary():
    with pytest.raises(ValueError, match=r"image codes 4\.\.8195 do not lie"):
        UniTokenConfig(decoder=SMALL.decoder)


def test_devices_share_the_images_of_rows_whatever_their_number():
    """Three images in each of four rows: with one blank image each, two a device."""
    model, params = small()
    system = registry.build(kind(SMALL))
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (4, 3, 8, 8, 3), np.uint8)
    encode = jax.jit(partial(model.apply, method="embed_images"))

    def run(mesh):
        placed = rules.shardings(
            registry.logical_axes(system), registry.abstract_params(system), mesh
        )
        arguments = (
            {"params": jax.device_put(params, placed)},
            jax.device_put(pictures, rules.batch_shardings(pictures, mesh)),
        )
        with jax.set_mesh(mesh):
            compiled = encode.lower(*arguments).compile()
            features = np.asarray(compiled(*arguments))
        return features, compiled.cost_analysis()["flops"] * mesh.size

    expected, work = run(make_mesh(MeshConfig(), jax.devices()[:1]))
    assert expected.shape == (4, 3 * 4, 16)
    found, shared = run(make_mesh(MeshConfig(fsdp=2, sequence=4)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert shared == pytest.approx(4 / 3 * work, rel=0.05)


@pytest.mark.slow
def test_eight_devices_give_the_same():
    """Rows over fsdp, heads and vocabulary over tensor, positions over sequence."""
    model, params = small()
    first = small_batch()
    batch = {k: np.concatenate([v, np.roll(v, 1, 1)]) for k, v in first.items()}
    key = jax.random.key(0)
    step = jax.jit(
        jax.value_and_grad(
            lambda params, batch: unitoken.loss(model, params, batch, key), has_aux=True
        )
    )
    expected = step(params, batch)
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2, sequence=2))
    system = registry.build(kind(SMALL))
    placed = rules.shardings(
        registry.logical_axes(system), registry.abstract_params(system), mesh
    )
    batch = jax.device_put(batch, rules.batch_shardings(batch, mesh))
    with jax.set_mesh(mesh):
        found = step(jax.device_put(params, placed), batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        found,
        expected,
    )
