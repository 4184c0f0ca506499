"""A run's directory becomes a model that draws and answers, or a sentence why not."""

import shutil

import numpy as np
import pytest

from unitoken_jax.config import ConfigError, UserError
from unitoken_jax.generate import load
from unitoken_jax.generate.config import GenerationConfig
from unitoken_jax.generate.sampler import Sampler
from unitoken_jax.generate.samplers.unitoken import UniTokenSampler
from unitoken_jax.models import registry
from unitoken_jax.models.system import resolve
from unitoken_jax.train.experiment import build_experiment, write_config


@pytest.fixture
def chain(run_node):
    return build_experiment(run_node)


def changed(run_node, **generation):
    return build_experiment(run_node | {"generation": generation})


def with_stages(run_node, **stages):
    """The run's config with other stages, in the order given."""
    return build_experiment(
        run_node | {"stages": stages, "order": tuple(stages), "generation": {}}
    )


def test_a_run_knows_its_config(run_node, workdir, tmp_path):
    """The directory alone gives what the config and the directory give."""
    directory = tmp_path / "run"
    shutil.copytree(workdir, directory)
    write_config(directory, build_experiment(run_node))
    alone = load.load(directory, guidance=2.0)
    together = load.load(workdir, build_experiment(run_node), guidance=2.0)
    assert isinstance(alone, UniTokenSampler)
    assert alone.config == together.config
    assert alone.config.guidance == 2.0
    prompts, seeds = ["a tree", "bird"], [1, 2]
    drawn = alone.draw(prompts, seeds)
    np.testing.assert_array_equal(drawn, together.draw(prompts, seeds))


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json"):
        load.load(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"guidence": 1.0}, "guidence: unknown name; did you mean 'guidance'"),
        ({"top_k": -1}, "top_k must not be negative"),
        ({"temperature": "warm"}, "config.generation.temperature"),
    ],
)
def test_changes_are_checked_before_anything_is_read(
    chain, workdir, fields, message, monkeypatch
):
    monkeypatch.setattr(load, "restore", lambda *_: pytest.fail("read"))
    with pytest.raises(ConfigError, match=message):
        load.load(workdir, chain, **fields)


def test_the_last_stage_with_a_sampler_draws(run_node, chain):
    config = GenerationConfig()
    assert load.find_sampled_stage(chain, config) == "model"
    stages = dict(run_node["stages"])
    twice = with_stages(run_node, **stages, again=stages["model"])
    assert load.find_sampled_stage(twice, config) == "again"
    first = GenerationConfig(model="model")
    assert load.find_sampled_stage(twice, first) == "model"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("modle", "there is no stage 'modle'; did you mean 'model'"),
        ("siglip", "stage 'siglip' trains a siglip, but a .*unitoken.* is needed"),
    ],
)
def test_a_stage_without_a_sampler_is_refused(chain, name, message):
    with pytest.raises(ConfigError, match=message):
        load.find_sampled_stage(chain, GenerationConfig(model=name))


def test_a_chain_that_trains_nothing_that_draws_is_refused_only_if_asked(run_node):
    chain = with_stages(run_node, siglip=run_node["stages"]["siglip"])
    load.check(chain)
    with pytest.raises(ConfigError, match="no stage of the config trains a unitoken"):
        load.find_sampled_stage(chain, GenerationConfig())


def test_a_model_gets_the_tokenizer_of_its_codes(run_node, chain):
    assert load.find_tokenizer_stage(chain, GenerationConfig(), "model") == "tokenizer"
    stages = dict(run_node["stages"])
    later = with_stages(run_node, other=stages["tokenizer"], **stages)
    found = load.find_tokenizer_stage(later, GenerationConfig(), "model")
    assert found == "tokenizer"
    named = GenerationConfig(tokenizer="other")
    assert load.find_tokenizer_stage(later, named, "model") == "other"
    wrong = GenerationConfig(tokenizer="siglip")
    with pytest.raises(ConfigError, match="trains a siglip, but a vqgan is needed"):
        load.find_tokenizer_stage(later, wrong, "model")


def test_codes_of_several_codebooks_need_another_tokenizer(run_node, chain):
    stages = dict(run_node["stages"])
    llamagen = stages["model"] | {"model": {"kind": "llamagen"}}
    mixed = with_stages(run_node, **stages, generator=llamagen)
    with pytest.raises(ConfigError, match="trains a vqgan, but a unitok is needed"):
        load.find_tokenizer_stage(mixed, GenerationConfig(), "generator")


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("guidance_interval", 3, "unitoken"),
        ("lead", (1,), "llamagen"),
        ("unconditional", "released", "unitok_mllm"),
        ("answer_limit", 8, "llamagen"),
    ],
)
def test_what_a_model_does_not_read_is_refused(field, value, kind):
    system = registry.build({"kind": kind})
    load.check_fields(GenerationConfig(), system)
    message = rf"generation\.{field}: a {kind} does not read it, only '\w+'"
    with pytest.raises(ConfigError, match=message):
        load.check_fields(GenerationConfig(**{field: value}), system)


def test_a_chain_is_checked_without_a_run(run_node):
    load.check(changed(run_node, guidance=2.0, model="model"))
    with pytest.raises(ConfigError, match="does not read it"):
        load.check(changed(run_node, guidance_interval=2))
    with pytest.raises(ConfigError, match="no stage 'absent'"):
        load.check(changed(run_node, model="absent"))
    with pytest.raises(ConfigError, match=r"generation\.limit: unknown name"):
        changed(run_node, model="model", limit=2)


def test_every_sampler_that_is_named_is_there():
    for kind in registry.KINDS:
        name = registry.build({"kind": kind}).sampler
        if name is not None:
            assert issubclass(resolve(name), Sampler)
            fields = GenerationConfig.__dataclass_fields__
            assert set(resolve(name).unread) <= fields.keys()


def test_a_stage_is_restored_with_its_data_rules(chain, workdir, unitoken):
    trained = load.restore(chain, "model", workdir, load.make_mesh(_mesh(chain)))
    assert trained.system.kind == "unitoken"
    assert trained.data.row_length == 96
    expected = unitoken[1]["decoder"]["norm"]["scale"]
    np.testing.assert_array_equal(trained.params["decoder"]["norm"]["scale"], expected)


def _mesh(chain):
    return chain.generation.mesh
