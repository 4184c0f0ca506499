"""Precision and recall of points that lie where they are seen."""

import numpy as np
import pytest

from unitoken_jax.evaluate.statistics import precision_recall


def test_precision_and_recall_see_what_lies_where(monkeypatch):
    monkeypatch.setattr(precision_recall, "_CHUNK", 3)
    line = np.arange(8.0)[:, None]
    points = np.array([[-1.0], [-1.01], [3.5], [8.0], [8.1]])
    inside = precision_recall.covered(points, line, neighbors=1)
    assert inside.tolist() == [True, False, True, True, False]
    with pytest.raises(ValueError, match=r"have no 8\. nearest"):
        precision_recall.covered(points, line, neighbors=8)
