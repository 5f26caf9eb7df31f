"""Commands that go on for long look for garbage; short ones do not."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Cli

MAIN = """
import gc, sys
from gen_worker.cli import main
assert main() == 0
print("collects" if gc.isenabled() else "does not", gc.get_threshold()[0], file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words",
    [
        "hub serve --dir hub --port 0",
        "scheduler serve --data data --http 127.0.0.1:0 --workers 127.0.0.1:0",
    ],
)
def test_what_serves_collects(cli: Cli, words: str) -> None:
    command = [sys.executable, "-c", MAIN, *words.split()]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=cli.folder, env=cli.environment, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), process.communicate()[1]
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert said.endswith("collects 20000\n"), said
