"""Warnings name the term, the codebook, the discriminator; each once."""

import math

import pytest

from unitoken_jax.train.monitor.alarms import AlarmConfig, Alarms

CALM = {"loss": 1.0, "grad_norm": 1.0, "l1": 0.2, "perceptual": 0.3}


def warnings(caplog, steps, **config):
    caplog.clear()
    alarms = Alarms(AlarmConfig(patience=3, **config))
    for step, metrics in enumerate(steps):
        alarms.see(step, metrics)
    return [record.getMessage() for record in caplog.records]


def test_a_term_that_is_not_finite_is_named_and_its_sums_are_not(caplog):
    bad = CALM | {"perceptual": math.nan, "loss": math.nan, "grad_norm": math.nan}
    (line, later) = warnings(caplog, [CALM, bad, bad, CALM, bad])
    assert line == "step 1: perceptual is nan"
    assert later.startswith("step 4:")


def test_a_gradient_alone_is_named(caplog):
    bad = CALM | {"grad_norm": math.inf}
    assert warnings(caplog, [bad]) == ["step 0: grad_norm is inf"]


def test_a_collapsed_codebook_is_named(caplog):
    full = CALM | {"usage": 0.5, "usage/0": 0.9, "usage/1": 0.04, "dead/1": 246.0}
    (line,) = warnings(caplog, [full] * 10)
    assert "step 2: codebook 1 has collapsed: usage/1 says that 4.0 %" in line
    assert "246 are dead" in line
    assert not warnings(caplog, [full, full, full | {"usage/1": 0.2}, full, full])


def test_the_only_codebook_is_seen_by_its_mean(caplog):
    low = CALM | {"usage": 0.05}
    (line,) = warnings(caplog, [low] * 10)
    assert "step 2: the codebook has collapsed: usage says that 5.0 %" in line
    assert not warnings(caplog, [low | {"usage/0": 0.5}] * 10)


def test_latents_that_lie_in_a_plane_are_told(caplog):
    plane = CALM | {"usage": 0.6, "latent_rank": 1.5}
    (line,) = warnings(caplog, [plane] * 10)
    assert "step 2: the latents have collapsed: latent_rank says" in line
    assert "1.50 directions" in line
    assert not warnings(caplog, [plane] * 10, rank=1.0)
    assert not warnings(caplog, [plane | {"latent_rank": 4.0}] * 10)


def test_a_discriminator_that_wins_is_named(caplog):
    off = CALM | {"discriminator/hinge": 0.0, "discriminator/ramp": 0.0}
    wins = off | {"discriminator/ramp": 1.0, "discriminator/hinge": 0.02}
    (line,) = warnings(caplog, [off] * 9 + [wins] * 5)
    assert "step 11: the discriminator wins: discriminator/hinge is 0.02" in line
    assert not warnings(caplog, [off] * 9)


def test_a_patience_that_is_none_is_refused():
    with pytest.raises(ValueError, match="patience must be at least 1"):
        AlarmConfig(patience=0)
