"""The README's first command answers; it is run here without its installing half."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_first_command_answers() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.findall(r"```console\n(python3 -m pip.*)\n```", text)[0]
    words = shlex.split(first.partition("gen-worker gen-worker ")[2])
    assert words[0] == "run"
    answer = subprocess.run(
        [sys.executable, "-m", "gen_worker.cli", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.stdout == '{"event":"result","value":{"response":"polo"}}\n', answer.stderr
