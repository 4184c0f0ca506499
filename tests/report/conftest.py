"""A finished run, made once, for tests that only read it or copy it."""

import pytest
from example_run import write_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "quickstart")
