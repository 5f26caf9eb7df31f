"""The real commands in processes of their own, as a newcomer would type them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Shell"]


class Shell:
    """A folder to run a project's commands in, which is also their home.

    The model cache begins empty, and no setting of this machine is in their environment.

    Example:
        shell = Shell(Path(__file__).parents[1], tmp_path)
        with shell.hub():
            shell.push("tiny-model", "demo/tiny-model")
            assert shell.value("a red fox", "seed=1")["width"] == 512
    """

    def __init__(self, project: Path, folder: Path, *, timeout_s: float = 300.0) -> None:
        """Begin with nothing.

        Args:
            project: Folder of an `endpoint.toml`; its code may be below `src`.
            folder: Where the commands run; exists already.
            timeout_s: After which a command is killed.
        """
        self.folder = folder
        self.timeout_s = timeout_s
        self.config = ("--config", str(project / "endpoint.toml"))
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join((str(project / "src"), str(project))),
            "OMP_NUM_THREADS": "1",  # the small models of tests only wait for their threads
        }

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Python on these words.

        Raises:
            AssertionError: It failed; with what it wrote on stderr.
            subprocess.TimeoutExpired: It did not end.
        """
        answer = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=self.timeout_s,
            check=False,
        )
        if answer.returncode:
            raise AssertionError(f"exit status {answer.returncode}: {answer.stderr}")
        return answer

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a function of the project, as `gen-worker run` does."""
        return self.python("-m", "gen_worker.cli", "run", *self.config, *words)

    def value(self, *words: str) -> Any:
        """Run a function of the project and return what it returned."""
        return json.loads(self.run(*words).stdout)["value"]

    def push(self, folder: str, ref: str) -> None:
        """Publish a model folder to the hub that runs."""
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
                self.environment.pop("TENSORHUB_URL", None)
