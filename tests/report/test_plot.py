"""Plots of many runs."""

import re

import numpy as np
import pytest

from unitoken_jax.report import chart, plot


def places(path: str) -> np.ndarray:
    return np.array([list(map(float, p.split())) for p in re.split("[ML]", path)[1:]])


def inside(points: np.ndarray) -> bool:
    x, y = points.T
    across = (x >= chart.LEFT - 0.1) & (x <= chart.WIDTH - chart.RIGHT + 0.1)
    upwards = (y >= chart.TOP - 0.1) & (y <= chart.HEIGHT - chart.BOTTOM + 0.1)
    return bool(np.all(across & upwards))


def test_curves_share_their_axes() -> None:
    series = [
        plot.Series("a", 0, np.array([10, 20, 30]), np.array([3.0, 2.0, 1.0])),
        plot.Series("b", 9, np.array([10, 20]), np.array([5.0, 4.0])),
    ]
    drawn = plot.curves(series, "Loss")
    assert [line.name for line in drawn.lines] == ["a", "b"]
    assert drawn.lines[1].color == 9 % plot.COLORS
    a, b = (places(line.path) for line in drawn.lines)
    assert inside(a)
    assert inside(b)
    np.testing.assert_allclose(a[:2, 0], b[:, 0])
    assert np.all(b[:, 1] < a[:2, 1])  # greater values stand higher
    assert drawn.summary == "ends between 1 and 4"


def test_dots_are_means_with_ranges() -> None:
    dots = [
        plot.Dot("a", 0, 0, [0.1, 0.3], [1.0, 2.0]),
        plot.Dot("b", 1, 0, [0.5], [3.0]),
        plot.Dot("c", 2, 5, [0.2], [1.0]),
    ]
    drawn = plot.against(dots, "Drawing", "Reading")
    a, b, c = drawn.marks
    assert a.x == pytest.approx(np.mean(a.x_range))
    assert a.x_range[0] < a.x < a.x_range[1]
    assert a.y_range[0] < a.y < a.y_range[1]
    assert b.y < a.y < c.y  # pixels grow downwards
    assert b.x_range == (b.x, b.x)
    assert c.shape == 5 % plot.SHAPES
    # One line through the dots of a shape, in their order.
    assert [len(places(line.path)) for line in drawn.lines] == [2, 1]
    assert not plot.against(dots, "Drawing", "Reading", ordered=False).lines
    assert inside(np.array([[mark.x, mark.y] for mark in drawn.marks]))
    assert "a: 0.200, 1.50" in drawn.summary


def test_one_dot_is_enough() -> None:
    drawn = plot.against([plot.Dot("a", 0, 0, [0.5], [0.5])], "y", "x")
    assert inside(np.array([[drawn.marks[0].x, drawn.marks[0].y]]))
