"""What all tests of training have."""

import miniature
import pytest


@pytest.fixture(autouse=True, scope="module")
def _miniature():
    with pytest.MonkeyPatch.context() as patch:
        miniature.register(patch)
        yield
