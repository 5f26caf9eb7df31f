"""The samples of docs/client.md run as they are printed, against the examples they name."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
TIMEOUT_S = 60
_BLOCK = re.compile(r"^```(py|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PORTS = {"127.0.0.1:8080": "text-stream", "127.0.0.1:8081": "image-tools"}


@contextmanager
def served(example: str, folder: Path) -> Iterator[str]:
    """Serve an example, and give its address."""
    config = ROOT / "examples" / example / "endpoint.toml"
    command = [sys.executable, "-m", "gen_worker.cli", "serve", "--config", str(config)]
    folder.mkdir()
    server = subprocess.Popen(
        [*command, "--http", "127.0.0.1:0"], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    address = ""
    for line in server.stderr:
        if "listening on " in line:
            address = line.partition("listening on http://")[2].split(" ")[0]
        if line.endswith("ready\n"):
            break
    try:
        yield address
    finally:
        server.terminate()
        assert server.wait(TIMEOUT_S) == 0
        server.stderr.close()


def test_samples_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    from PIL import Image

    Image.new("RGB", (256, 128), "red").save("picture.png")
    names: dict[str, object] = {"__name__": "samples"}
    with ExitStack() as stack:
        text = PAGE
        for port, example in PORTS.items():
            text = text.replace(port, stack.enter_context(served(example, tmp_path / example)))
        found = _BLOCK.findall(text)
        assert len(found) > 10
        for language, sample in found:
            if language == "py":
                exec(compile(sample, "docs/client.md", "exec"), names)
            else:
                follow(sample)


def follow(transcript: str) -> None:
    """Run a command, and compare what it says."""
    command, _, shown = transcript.removeprefix("$ gen-worker ").partition("\n")
    words = [sys.executable, "-m", "gen_worker.cli", *shlex.split(command)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    assert done.stdout + done.stderr == shown
