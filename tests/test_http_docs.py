"""Every curl line of docs/http-api.md does what the page shows."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "http-api.md"
TIMEOUT_S = 60
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)


def transcripts() -> list[tuple[str, str]]:
    """Return each command and what the page shows of its output."""
    found = []
    for block in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            if "curl" in command:
                found.append((command, shown.strip()))
    return found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = ROOT / "examples" / "text-stream" / "endpoint.toml"
    command = [sys.executable, "-m", "gen_worker.cli", "serve", "--config", str(config)]
    server = subprocess.Popen(
        [*command, "--http", "127.0.0.1:0"],
        cwd=tmp_path_factory.mktemp("serve"),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    found = ""
    for line in server.stderr:
        if "listening on " in line:
            found = line.partition("listening on http://")[2].split(" ")[0]
        if line.endswith("ready\n"):
            break
    yield found
    server.send_signal(signal.SIGTERM)
    assert server.wait(TIMEOUT_S) == 0
    server.stderr.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_line_answers_as_shown(address: str) -> None:
    lines = transcripts()
    assert len(lines) > 10
    for command, shown in lines:
        assert "localhost:8080" in command
        real = command.replace("localhost:8080", address).replace("curl ", "curl --noproxy '*' ")
        done = subprocess.run(
            ["sh", "-c", real], stdout=subprocess.PIPE, timeout=TIMEOUT_S, check=True, text=True
        )
        pattern = ".*".join(map(re.escape, shown.split("…")))
        is_as_shown = re.fullmatch(pattern, done.stdout.strip(), re.DOTALL) is not None
        assert is_as_shown, f"{command}\n{done.stdout}"
