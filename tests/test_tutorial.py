"""Every step of docs/tutorial.md does what the page shows, with real processes on one machine."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
TIMEOUT_S = 120
API = "localhost:8787"
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)
_URL = re.compile(r"the API is http://(\S+), ")


class Step(NamedTuple):
    command: str
    """`^C` is the keys."""
    shown: str


def steps() -> Iterator[Step]:
    for block in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        for part in re.split(r"^(?=\$ |\^C)", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield Step(command.removeprefix("$ "), shown.strip())


class Terminal:
    """A process on a terminal of its own, and what it has written there."""

    def __init__(self, command: str, folder: Path, environment: dict[str, str]) -> None:
        ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            ["sh", "-c", f"exec 2>&1; exec {command}"],
            cwd=folder,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.output = ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, args=(ours,))
        self._reader.start()

    def _read(self, ours: int) -> None:
        data = b""
        while True:
            select.select([ours], [], [])
            try:
                some = os.read(ours, 65536)
            except OSError:  # nobody has the other end any more
                some = b""
            data += some
            with self._changed:
                self.output = data.decode("utf-8", "replace").replace("\r\n", "\n")
                self._changed.notify_all()
            if not some:
                os.close(ours)
                return

    def wait_for(self, pattern: str) -> str:
        """Wait until a pattern is on the screen, and return its first group."""
        deadline = time.monotonic() + TIMEOUT_S
        with self._changed:
            while not (found := re.search(pattern, self.output)):
                left_s = deadline - time.monotonic()
                assert left_s > 0, self.output
                assert self._process.poll() is None, self.output
                self._changed.wait(min(left_s, 1.0))
        return found[1] if found.re.groups else found[0]

    def end(self, *, signal_number: int | None = None) -> int:
        """Wait for the end of the process, and of all that it has started."""
        if signal_number is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal_number)
        code = self._process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        return code


class Newcomer:
    """Types what the page says: `gen-worker up` in one terminal, everything else in another."""

    def __init__(self, home: Path) -> None:
        self.folder = home
        self.platform: Terminal | None = None
        self.url = ""
        binaries = home / "bin"
        binaries.mkdir()
        command = binaries / "gen-worker"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gen_worker.cli "$@"\n')
        command.chmod(0o755)
        self.environment = {
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "HOME": str(home),
            "USER": "ada",
            "LOGNAME": "ada",
            "NO_COLOR": "1",
            "TERM": "dumb",
            "COLUMNS": "200",
            "no_proxy": "*",
        }

    def type(self, command: str) -> str:
        """Type a command, and return what was on the screen when it had ended."""
        if command == "^C":
            assert self.platform is not None
            assert self.platform.end(signal_number=signal.SIGINT) == 0, self.platform.output
            return ""
        if command == "gen-worker up":
            self.platform = Terminal(command, self.folder.parent, self.environment)
            self.url = self.platform.wait_for(_URL.pattern)
            self.platform.wait_for("the model hub is")
            return self.platform.output
        if command.startswith("cd "):
            self.folder /= command.removeprefix("cd ")
            return ""
        terminal = Terminal(command.replace(API, self.url), self.folder, self.environment)
        code = terminal.end()
        assert code == 0, f"{command}\n{terminal.output}\n{self.platform and self.platform.output}"
        return terminal.output

    def leave(self) -> None:
        if self.platform is not None:
            self.platform.end(signal_number=signal.SIGKILL)


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    home = tmp_path / "ada"
    home.mkdir()
    newcomer = Newcomer(home)
    yield newcomer
    newcomer.leave()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_step_does_what_is_shown(newcomer: Newcomer) -> None:
    found = list(steps())
    assert len(found) > 15
    for step in found:
        output = newcomer.type(step.command)
        shown = re.sub(r"127\.0\.0\.1:8\d+", "…", step.shown)
        pattern = ".*".join(re.escape(part) for part in shown.split("…"))
        is_as_shown = re.search(pattern, output, re.DOTALL) is not None
        assert is_as_shown, f"$ {step.command}\n{output}"
    assert newcomer.type("^C") == ""
