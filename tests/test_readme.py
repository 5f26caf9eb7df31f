"""The README's two commands: the first one answers, and neither installs into anybody's Python.

The first is run here without its installing half.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def commands() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, section = text.partition("\n## Two commands\n")
    return re.findall(r"```console\n(.*)\n```", section.partition("\n## ")[0])


def test_nothing_is_installed_outside_the_checkout() -> None:
    """A Python that is managed from outside refuses pip unless it is given a target."""
    first, second = commands()
    installing = first.partition(" && ")[0]
    assert installing == "python3 -m pip install -q --target .uv uv"
    assert second == "bash .ci/run"
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    places = re.findall(r"pip install .*--target (\S+)", f"{first}\n{script}")
    assert places == [".uv"] * (first.count("pip install") + script.count("pip install"))
    assert ".uv/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_the_first_command_answers() -> None:
    first = commands()[0]
    assert " && .uv/bin/uv run " in first
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
