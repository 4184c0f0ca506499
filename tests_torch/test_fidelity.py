"""Distances between pictures: ours beside torch-fidelity's and torchmetrics'.

torch-fidelity imports torchvision for data sets and networks that are not used here, so
an empty one stands in and torch-fidelity is installed without its dependencies.
"""

import sys
import types
import warnings

import jax
import numpy as np
import pytest
import torch
from feature_sets import GOLDEN, KID, sets

from unitoken_jax import convert
from unitoken_jax.convert.formats import network_of
from unitoken_jax.convert.published import inception as layout
from unitoken_jax.convert.table import export_tensors
from unitoken_jax.evaluate.feature_networks.distribution import (
    INCEPTION,
    DistributionConfig,
    Features,
    compare,
    extract,
)
from unitoken_jax.evaluate.feature_networks.extractors import inception_features
from unitoken_jax.evaluate.statistics.frechet import moments
from unitoken_jax.models.perceptual.inception import InceptionConfig, InceptionV3


def _torchvision():
    """Modules by name, with nothing but the names that are imported."""
    names = ("", ".datasets", ".models", ".transforms", ".transforms.functional")
    modules = {name: types.ModuleType(f"torchvision{name}") for name in names}
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        setattr(modules[".datasets"], name, object)
    for name in names[1:]:
        parent, _, own = name.rpartition(".")
        setattr(modules[parent], own, modules[name])
    return {module.__name__: module for module in modules.values()}


with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name, module in _torchvision().items():
        patch.setitem(sys.modules, name, module)
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchmetrics.functional.image import lpips as torch_lpips
    from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
    from torchmetrics.image.inception import InceptionScore

CONFIG = DistributionConfig(subsets=KID["subsets"], subset=KID["size"], resamples=0)


def features(rows, logits=None):
    return Features(moments(rows), rows, logits)


def test_torch_fidelity_finds_the_golden_numbers_and_so_do_we():
    real, generated, logits = sets()
    one, other, classes = map(torch.from_numpy, (generated, real, logits))
    quiet = {"verbose": False}
    statistics = map(metric_fid.fid_features_to_statistics, (one, other))
    fid = metric_fid.fid_statistics_to_metric(*statistics, **quiet)
    sizes = {"kid_subsets": KID["subsets"], "kid_subset_size": KID["size"]}
    kid = metric_kid.kid_features_to_metric(one, other, **sizes, **quiet)
    score = metric_isc.isc_features_to_metric(classes)
    shares = metric_prc.prc_features_to_metric(
        one, other, prc_batch_size=100, save_cpu_ram=False, **quiet
    )
    theirs = {
        "fid": fid["frechet_inception_distance"],
        "kid": kid["kernel_inception_distance_mean"],
        "inception_score": (
            score["inception_score_mean"],
            score["inception_score_std"],
        ),
        "precision": shares["precision"],
        "recall": shares["recall"],
    }
    for name, value in theirs.items():
        assert value == pytest.approx(GOLDEN[name], rel=1e-5), name
    ours = compare(features(real), features(generated, logits), INCEPTION, CONFIG)
    assert ours["fid"].value == pytest.approx(theirs["fid"], rel=1e-4)
    assert ours["kid"].value == pytest.approx(theirs["kid"], rel=1e-4)
    mean = theirs["inception_score"][0]
    assert ours["inception_score"].value == pytest.approx(mean, rel=1e-5)
    for name in ("precision", "recall"):
        found = ours[f"{name}_inception"].value
        assert found == pytest.approx(theirs[name], rel=1e-3)


class Given(torch.nn.Module):
    """Takes pictures for features: what is given comes out."""

    num_features = 24

    def forward(self, rows):
        return rows


def test_torchmetrics_agrees_on_the_same_features():
    real, generated, logits = sets()
    metric = FrechetInceptionDistance(Given(), normalize=True)
    metric.set_dtype(torch.float64)
    for rows, is_real in ((real, True), (generated, False)):
        for part in np.array_split(rows, 3):
            metric.update(torch.from_numpy(part).double(), real=is_real)
    ours = compare(features(real), features(generated), INCEPTION, CONFIG)
    assert ours["fid"].value == pytest.approx(float(metric.compute()), rel=1e-3)
    with warnings.catch_warnings():
        # Of the memory that features take, and of the deviation of one split.
        warnings.simplefilter("ignore")
        score = InceptionScore(Given(), splits=1)
        score.update(torch.from_numpy(logits))
        expected = float(score.compute()[0])
    ours = compare(
        features(real),
        features(generated, logits),
        INCEPTION,
        DistributionConfig(splits=1, subsets=0, neighbors=0, resamples=0),
    )
    found = ours["inception_score"].value
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("resize", ["tensorflow", "bilinear"])
def test_torch_fidelity_reads_our_inception_and_sees_the_same(resize, tmp_path):
    config = InceptionConfig(resize)
    rng = np.random.default_rng(0)
    abstract = network_of(config).abstract(config)

    def draw(path, leaf):
        name = path[-1].key
        if name in {"scale", "variance"}:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        deviation = np.sqrt(2 / max(1, np.prod(leaf.shape[:-1])))
        return (deviation * rng.normal(size=leaf.shape)).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, abstract)
    exported = export_tensors(layout.table(config), params, layout.counts(config))
    state = {key: torch.from_numpy(array) for key, array in exported.items()}
    torch.save(state, tmp_path / "inception.pth")
    network = NoTrainInceptionV3(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        str(tmp_path / "inception.pth"),
        antialias=resize == "bilinear",
    )
    pictures = rng.integers(0, 256, (3, 40, 52, 3), np.uint8)
    shown = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    theirs = network._torch_fidelity_forward(shown)
    ours = extract(inception_features(InceptionV3(config), params), pictures, CONFIG)
    for one, other in zip((ours.rows, ours.logits), theirs, strict=True):
        bound = 1e-4 * float(other.abs().max())
        np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=bound)


def test_lpips_is_that_of_torchmetrics(monkeypatch):
    """With the published heads, on a trunk of VGG16's shape and random weights."""
    layers, before = [], 3
    for width, depth in zip((64, 128, 256, 512, 512), (2, 2, 3, 3, 3), strict=True):
        for _ in range(depth):
            layers += [torch.nn.Conv2d(before, width, 3, padding=1), torch.nn.ReLU()]
            before = width
        layers.append(torch.nn.MaxPool2d(2))
    trunk = torch.nn.Sequential(*layers)
    monkeypatch.setattr(torch_lpips, "_get_tv_model_features", lambda *_: trunk)
    network = torch_lpips._LPIPS(net="vgg", pnet_rand=True)
    starts = dict(enumerate((0, 4, 9, 16, 23), 1))  # of the slices in the trunk

    def published(key):
        if not key.startswith("net."):
            return key
        _, part, place, leaf = key.split(".")
        return f"net.{part}.{int(place) - starts[int(part[-1])]}.{leaf}"

    state = {
        published(key): array.numpy()
        for key, array in network.state_dict().items()
        if key.startswith(("net.", "lins."))
    }
    module, params = convert.load("lpips", state)
    first, second = 2 * torch.rand(2, 3, 3, 32, 32) - 1
    theirs = network(first, second).squeeze().numpy()
    sides = (x.permute(0, 2, 3, 1).numpy() for x in (first, second))
    ours = module.apply({"params": params}, *sides)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
