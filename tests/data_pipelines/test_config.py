"""The data group of a job: strict, with a sentence for every wrong value."""

import pytest

from data_pipelines.config import KINDS, DataConfig, build_data, kind_class
from data_pipelines.unitoken.rows import SequencesConfig
from unitoken_jax.config import ConfigError, plain


def test_built_from_a_config_node():
    node = {
        "kind": "sequences",
        "row_length": 256,
        "views": {"size": 64, "patch": 8, "grids": [[1, 2], [2, 1]]},
        "layout": {"labels": "released", "code_stride": 8},
        "mixture": {"caption": 0.5, "question": 0, "draw": 1},
        "background": [0, 0, 0],
    }
    config = build_data(node, "data")
    assert isinstance(config, SequencesConfig)
    assert config.views.grids == ((1, 2), (2, 1))
    assert config.mixture.ratios == {"caption": 0.5, "draw": 1.0}
    assert config.shows_views
    assert hash(config) == hash(build_data(node, "data"))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"kind": "video"}, r"data\.kind: 'video' is not among the choices"),
        ({"kind": None}, r"data\.kind: None is not among the choices"),
        ({"kind": "sequence"}, r"did you mean 'sequences'\?"),
        ({"mixture": {"drawing": 1.0}}, "did you mean 'draw'"),
        ({"mixture": {"draw": -1.0}}, r"data\.mixture: ratios .* not negative"),
        (
            {"mixture": {"caption": 0, "question": 0, "draw": 0}},
            "one must be positive",
        ),
        ({"prompt_drop": 2.0}, "prompt_drop must be a probability, not 2.0"),
        ({"prompt_drop": float("nan")}, "prompt_drop.* not nan"),
        ({"bad_share": 1.5}, "bad_share must be a probability, not 1.5"),
        ({"row_length": 0}, "row_length must be positive, not 0"),
        ({"threads": -1}, "threads must not be negative: -1"),
        ({"threads": 8, "prefetch": 4}, "set prefetch to 8 or more, or threads to 4"),
        ({"background": [0, 0, 256]}, "is not a colour"),
        ({"views": {"size": 4, "patch": 8}}, r"data\.views: patches of 8 px"),
        ({"layout": {"prompt_template": "x"}}, r"data\.layout: prompt_template 'x'"),
        ({"row_lenght": 3}, "unknown name; did you mean 'row_length'"),
        ({"kind": "pairs", "augment": {"flip": -0.1}}, "flip must be a probability"),
        (
            {"kind": "pairs", "text_end": True, "clip_tokenizer": "bpe.gz"},
            "leave text_end out",
        ),
    ],
)
def test_wrong_values_are_refused(node, message):
    with pytest.raises(ConfigError, match=message):
        build_data({"kind": "sequences"} | node, "data")


@pytest.mark.parametrize("node", [None, 3, [], "sequences"])
def test_what_is_no_group_is_refused(node):
    with pytest.raises(ConfigError, match="expected a group of fields"):
        build_data(node, "data")


def test_a_missing_kind_is_refused():
    with pytest.raises(ConfigError, match=r"data\.kind: missing; known are images, "):
        build_data({"image_size": 64}, "data")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "unitok_mllm",
            "mixture",
            r"of kind 'sequences'; did you mean 'prompts\.mixture'\?",
        ),
        ("sequences", "prompts", "only that of kind 'unitok_mllm'"),
        ("sequences", "augment", "only that of kind 'images' or 'pairs'"),
        ("sequences", "text_length", r"'pairs'; did you mean 'row_length'\?"),
        ("unitok_mllm", "canvas", "only that of kind 'sequences'"),
        ("classes", "prompt_drop", "only that of kind 'sequences' or 'unitok_mllm'"),
        ("images", "text_length", "only that of kind 'pairs'"),
    ],
)
def test_a_field_of_another_kind_is_refused_with_its_name(kind, name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build_data({"kind": kind, name: {}}, "data")
    assert f"data.{name}: data of kind {kind!r} does not have it" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_no_field_but_its_own(kind):
    """Every field of every kind, at its default, is taken or refused, never ignored."""
    own = plain(kind_class(kind)())  # pyright: ignore[reportCallIssue]
    for cls in map(kind_class, KINDS):
        for name, value in plain(cls()).items():  # pyright: ignore[reportCallIssue]
            node = {name: own.get(name, value), "kind": kind}
            if name in own:
                assert isinstance(build_data(node), DataConfig)
            else:
                with pytest.raises(ConfigError, match="does not have it"):
                    build_data(node)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_elements_and_shapes(kind):
    config = build_data({"kind": kind})
    assert config.kind == kind
    assert type(config) is kind_class(kind)
    assert type(config).elements is not DataConfig.elements
    assert config.batch_spec(2)


@pytest.mark.parametrize(
    ("old", "new"), [("pictures", "images"), ("liquid", "unitok_mllm")]
)
def test_an_old_kind_is_refused_with_its_new_name(old, new):
    with pytest.raises(
        ConfigError, match=f"data.kind={old} is called data.kind={new} n"
    ):
        build_data({"kind": old}, "data")


def test_an_old_field_is_refused_with_its_new_name():
    with pytest.raises(ConfigError, match=r"data\.liquid is called data\.prompts now"):
        build_data({"kind": "unitok_mllm", "liquid": {}}, "data")
