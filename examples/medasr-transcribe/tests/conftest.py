"""The real command in processes of its own, with a home and a model cache that begin empty."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[1]
CONFIG = ("--config", str(PROJECT / "endpoint.toml"))
TIMEOUT_S = 300


class Shell:
    """A folder to run commands in, with no setting of this machine in their environment."""

    config = CONFIG

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(PROJECT / "src"),
            "OMP_NUM_THREADS": "1",  # such small models only wait for their threads
        }

    def ended(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Python on these words, however that ends."""
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Python on these words; it has to succeed."""
        answer = self.ended(*words)
        assert answer.returncode == 0, answer.stderr
        return answer

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a function of this project."""
        return self.python("-m", "gen_worker.cli", "run", *CONFIG, *words)

    def value(self, *words: str) -> Any:
        """Run a function of this project and return what it returned."""
        return json.loads(self.run(*words).stdout)["value"]

    def push(self, folder: str, ref: str) -> None:
        self.python("-m", "gen_worker.cli", "hub", "push", folder, ref)

    @contextlib.contextmanager
    def hub(self) -> Iterator[None]:
        """Have a hub that the commands find; afterwards it is gone."""
        command = [sys.executable, "-m", "gen_worker.cli", "hub", "serve"]
        with subprocess.Popen(
            [*command, "--dir", "hub", "--port", "0"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                self.environment["TENSORHUB_URL"] = json.loads(process.stdout.readline())["url"]
                yield
            finally:
                process.terminate()


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("home"))
