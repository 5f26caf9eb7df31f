"""The real commands, with a home and a model cache that begin empty."""

from pathlib import Path

import pytest
from gen_worker.testing.shell import Shell


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(Path(__file__).parents[1], tmp_path_factory.mktemp("home"))
