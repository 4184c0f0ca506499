"""The data group of a job: strict, with a sentence for every wrong value."""

import pytest

from data_pipelines.config import DataConfig
from unitoken_jax.config import ConfigError, build


def test_built_from_a_config_node():
    node = {
        "kind": "sequences",
        "row_length": 256,
        "views": {"size": 64, "patch": 8, "grids": [[1, 2], [2, 1]]},
        "layout": {"labels": "released", "code_stride": 8},
        "mixture": {"caption": 0.5, "question": 0, "draw": 1},
        "background": [0, 0, 0],
    }
    config = build(DataConfig, node, "data")
    assert config.views.grids == ((1, 2), (2, 1))
    assert config.mixture.ratios == {"caption": 0.5, "draw": 1.0}
    assert config.shows_views
    assert hash(config) == hash(build(DataConfig, node, "data"))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"kind": "video"}, r"data\.kind: 'video' is not among the choices"),
        ({"mixture": {"drawing": 1.0}}, "did you mean 'draw'"),
        ({"mixture": {"draw": -1.0}}, r"data\.mixture: ratios .* not negative"),
        (
            {"mixture": {"caption": 0, "question": 0, "draw": 0}},
            "one must be positive",
        ),
        ({"prompt_drop": 2.0}, "prompt_drop must be a probability, not 2.0"),
        ({"augment": {"flip": -0.1}}, "flip must be a probability"),
        ({"row_length": 0}, "row_length must be positive, not 0"),
        ({"threads": -1}, "threads must not be negative: -1"),
        ({"background": [0, 0, 256]}, "is not a colour"),
        ({"views": {"size": 4, "patch": 8}}, r"data\.views: patches of 8 px"),
        ({"layout": {"prompt_template": "x"}}, r"data\.layout: prompt_template 'x'"),
    ],
)
def test_wrong_values_are_refused(node, message):
    with pytest.raises(ConfigError, match=message):
        build(DataConfig, {"kind": "sequences"} | node, "data")
