"""Every cross-check of an experiment by itself: what is refused, and by which field."""

import dataclasses
from types import SimpleNamespace

import miniature
import numpy as np
import pytest
import tiny_unitoken

from data_pipelines.elements import CodeSpec
from unitoken_jax.config import ConfigError, UserError, build
from unitoken_jax.errors import FailedError
from unitoken_jax.parallel.mesh import MeshConfig, make_mesh
from unitoken_jax.runtime import processes
from unitoken_jax.train import preflight
from unitoken_jax.train.config import CodesConfig, ExperimentConfig, StageConfig

AT = "config.stages.one"
VQGAN = {"kind": "vqgan", "resolution": 16, "ch": 4, "ch_mult": (1, 2)}
VQGAN |= {"num_res_blocks": 1, "z_channels": 4, "embed_dim": 4, "num_groups": 2}
ROWS = {"kind": "sequences", "image_size": 8, "row_length": 48, "row_views": 1}
ROWS |= {"views": {"size": 8, "patch": 4}}


def stage(model: dict, data: dict, **fields) -> StageConfig:
    node = {
        "name": "one",
        "seed": 0,
        "model": model,
        "data": data,
        "optimizer": {"learning_rate": 1e-3},
        "train": {"steps": 8, "batch": 8},
    }
    return build(StageConfig, node | fields, AT)


def experiment(*stages: StageConfig) -> ExperimentConfig:
    names = tuple(each.name for each in stages)
    return ExperimentConfig("test", names, dict(zip(names, stages, strict=True)), "d")


def tokenizer(**fields) -> StageConfig:
    return stage(VQGAN, {"kind": "images", "image_size": 16}, **fields)


def unitoken(model: dict | None = None, **data) -> StageConfig:
    return stage(tiny_unitoken.MODEL | (model or {}), ROWS | data)


def test_what_suits_is_not_refused() -> None:
    for one in (tokenizer(), unitoken(), miniature.job("one")):
        preflight.check_data(experiment(one))
        preflight.check_models(experiment(one))
        preflight.check_all_is_read(experiment(one), begins=True)


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (
            stage(VQGAN, {"kind": "classes"}),
            f"{AT}.data.kind is 'classes', but this vqgan learns from 'images'",
        ),
        (
            stage(VQGAN, {"kind": "images", "image_size": 17}),
            f"{AT}.data.image_size is 17, but must be a multiple of 2",
        ),
        (
            dataclasses.replace(tokenizer(), codes=CodesConfig("one")),
            f"{AT}.codes: data of kind 'images' holds no codes",
        ),
        (
            dataclasses.replace(
                unitoken(directory="coded"), codes=CodesConfig("tokenizer")
            ),
            f"{AT}.codes: the data would be that of {AT}.data.directory",
        ),
        (
            unitoken({"vision": None}),
            f"{AT}.model.vision is None, but {AT}.data.layout.encoding is",
        ),
        (
            unitoken(row_views=0),
            f"{AT}.data.row_views is 0, but {AT}.data.layout.encoding is",
        ),
        (
            unitoken(views={"size": 8, "patch": 2}),
            f"{AT}.data.views.patch is 2, but {AT}.model.vision.patch is 4",
        ),
        (
            unitoken({"mask_image_logits": True}),
            f"{AT}.model.mask_image_logits gives image codes no probability",
        ),
    ],
)
def test_data_that_does_not_suit_its_model_is_refused(one, sentence) -> None:
    with pytest.raises(ConfigError) as caught:
        preflight.check_data(experiment(one))
    assert str(caught.value).startswith(sentence)


def test_texts_that_are_longer_than_the_tower_reads_are_refused() -> None:
    sides = {"hidden": 8, "mlp": 8, "layers": 1, "heads": 2}
    model = {"kind": "siglip", "embed": 8, "vision": {"image": 8, "patch": 4} | sides}
    model["text"] = {"vocab_size": 9, "length": 5} | sides
    one = stage(model, {"kind": "pairs", "image_size": 8, "text_length": 6})
    with pytest.raises(ConfigError, match=r"text_length is 6, but .*text\.length is 5"):
        preflight.check_data(experiment(one))


def test_what_no_row_shows_is_refused_of_a_new_run_and_said_of_one_that_is_on(
    caplog,
) -> None:
    one = unitoken({"vision": None}, layout={"encoding": "discrete"})
    with pytest.raises(ConfigError, match=rf"^{AT}\.data\.views: .* show no views"):
        preflight.check_all_is_read(experiment(one), begins=True)
    preflight.check_all_is_read(experiment(one), begins=False)
    assert "whose rows show no views" in caplog.text


def test_a_stage_starts_from_what_an_earlier_one_has() -> None:
    first = miniature.job("first")
    second = miniature.job("second", init={"second": "first:first"})
    assert preflight.stages_needed(experiment(first, second), second) == ["first"]
    preflight.check_models(experiment(first, second))
    with pytest.raises(UserError, match="starts from 'first', which does not come"):
        preflight.check_models(experiment(second, first))
    wider = dataclasses.replace(first, model=miniature.NetworkConfig(8))
    with pytest.raises(UserError, match="first:first"):
        preflight.check_models(experiment(wider, second))


def test_a_group_of_parameters_must_be_there() -> None:
    groups = {"all": {"pattern": ".*"}, "none": {"pattern": "nothing/.*"}}
    one = miniature.job("one", optimizer={"learning_rate": 1.0, "groups": groups})
    with pytest.raises(ConfigError, match=rf"^{AT}\.optimizer\.groups"):
        preflight.check_models(experiment(one))


def test_a_model_numbers_ids_and_codes_as_its_data_set() -> None:
    system = unitoken().system
    (field,) = {"first_image_code", "last_image_code"} & {"first_image_code"}
    names = system.data.vocabulary
    agree = {attribute: system.value(name) for name, attribute in names.items()}
    preflight.check_vocabulary(system, SimpleNamespace(**agree), f"{AT}.model")
    other = agree | {names[field]: agree[names[field]] + 1}
    with pytest.raises(ConfigError, match=rf"{AT}\.model\.{field} is 4, the data"):
        preflight.check_vocabulary(system, SimpleNamespace(**other), f"{AT}.model")

    model = {"kind": "llamagen", "hidden": 16, "layers": 1, "heads": 2}
    model |= {"multiple_of": 8, "classes": 3, "codebooks": 2, "codes": 6, "side": 2}
    system = stage(model | {"depth_layers": 1}, {"kind": "classes"}).system
    preflight.check_codes(system, CodeSpec(4, 2, 6, 3), AT)
    preflight.check_codes(system, None, AT)
    with pytest.raises(ConfigError, match=r"codebooks is 2, the data set has 8"):
        preflight.check_codes(system, CodeSpec(4, 8, 6, 3), AT)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"frozen_models": {"percptual": {"format": "lpips", "path": "x"}}}, "nothing"),
        (
            {"discriminator": {"optimizer": {"learning_rate": 1.0}}},
            r"consults a frozen network 'backbone'; name its weights there",
        ),
        (
            {"discriminator": {"optimizer": {"learning_rate": 1.0}, "frozen": False}},
            r"discriminator: this vqgan draws nothing that could be judged",
        ),
    ],
)
def test_frozen_models_and_discriminators_are_wanted_or_refused(
    fields, sentence
) -> None:
    one = tokenizer(**fields)
    with pytest.raises(ConfigError, match=sentence):
        preflight.check_discriminator(one, one.system, AT)


def test_elements_that_are_compared_are_not_parted() -> None:
    one = tokenizer(train={"steps": 8, "batch": 8, "microbatches": 2})
    preflight.check_microbatches(one, one.system, AT)
    whole = dataclasses.replace(one.system, whole_batch=True)
    with pytest.raises(ConfigError, match=rf"^{AT}\.train\.microbatches: .*to 1\."):
        preflight.check_microbatches(one, whole, AT)


def test_devices_share_a_batch_equally() -> None:
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    preflight.check_rows(tokenizer(), mesh, AT)
    one = tokenizer(train={"steps": 1, "batch": 16, "microbatches": 4})
    with pytest.raises(ConfigError, match="are 4 elements at a time, which 8 devices"):
        preflight.check_rows(one, mesh, AT)


def test_steps_that_were_taken_are_not_taken_back(tmp_path) -> None:
    one = tokenizer()
    preflight.check_step(one, 8, tmp_path, AT)
    with pytest.raises(ConfigError, match=r"train\.steps: 8, .* step 9; set it to 9"):
        preflight.check_step(one, 9, tmp_path, AT)
    preflight.check_resume(one, one.system, tmp_path, AT)  # nothing is there
    with pytest.raises(UserError, match=r"--restore_step=4: .* is not there"):
        preflight.check_resume(one, one.system, tmp_path, AT, restore_step=4)


def test_processes_feed_one_stream(monkeypatch) -> None:
    preflight.check_streams("0123456789abcdef", AT)
    others = lambda words: np.asarray([words, [word + 1 for word in words]])  # noqa: E731
    monkeypatch.setattr(processes, "gather", others)
    with pytest.raises(FailedError, match=rf"{AT}\.data: process 1 has other samples"):
        preflight.check_streams("0123456789abcdef", AT)
