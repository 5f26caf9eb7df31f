"""Every Python sample of the documentation runs as written, and every link leads somewhere."""

import re
import shlex
import subprocess
import sys
import types
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
PAGES += sorted(ROOT.glob("packages/*/README.md"))
_SAMPLE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_TRANSCRIPT = re.compile(r"^\$ gen-worker (run .*)\n((?:\{.*\}\n)+)", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def _samples(page: Path) -> list[tuple[int, str]]:
    """Return line and text of each sample."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(1)) + 1, m[1]) for m in _SAMPLE.finditer(text)]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if _samples(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_samples_run_in_order(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"sample_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    for line, sample in _samples(page):
        code = compile("\n" * (line - 1) + sample, str(page), "exec")
        exec(code, module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_exist(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_event_of_the_catalogue_is_told_by_the_sources() -> None:
    page = (ROOT / "docs" / "endpoint-authoring.md").read_text(encoding="utf-8")
    section = page.partition("## Observability\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`([a-z_.]+)`", row)}
    sources = "".join(
        path.read_text(encoding="utf-8")
        for path in ROOT.glob("packages/*/src/**/*.py")
        if path.parts[-2:] != ("telemetry", "catalog.py")  # the table is made from it
    )
    assert len(names) > 50
    assert [name for name in sorted(names) if not _is_told(name.split("."), sources)] == []


def _is_told(parts: list[str], sources: str) -> bool:
    """Tell whether a name is written out, or put together of parts that are."""
    for cuts in product((False, True), repeat=len(parts) - 1):
        groups = [parts[0]]
        for part, is_cut in zip(parts[1:], cuts, strict=True):
            groups = [*groups, part] if is_cut else [*groups[:-1], f"{groups[-1]}.{part}"]
        for holes in product((False, True), repeat=len(groups)):
            if all(holes) and "." not in groups[0]:
                continue  # any two words would do
            written = [
                r"\{[^{}\"]+(?:'[^']*')?[^{}\"]*\}" if is_hole else re.escape(group)
                for group, is_hole in zip(groups, holes, strict=True)
            ]
            needed = [group for group, is_hole in zip(groups, holes, strict=True) if is_hole]
            pattern = '"' + r"\.".join(written) + '"'
            is_formed = re.search(pattern, sources) is not None
            if is_formed and all(re.search(rf"[\"']{part}[\"']", sources) for part in needed):
                return True
    return False


def _transcripts() -> list[tuple[str, str, str]]:
    """Return example, command and output of what needs no file and is printed in full."""
    return [
        (name, *found)
        for name in ("class-endpoint", "marco-polo", "text-stream")
        for found in _TRANSCRIPT.findall((ROOT / "examples" / name / "README.md").read_text())
        if "…" not in found[1]
    ]


@pytest.mark.parametrize(("name", "command", "output"), _transcripts())
def test_examples_print_what_their_readmes_show(name: str, command: str, output: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "gen_worker.cli", *shlex.split(command)],
        cwd=ROOT / "examples" / name,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.stdout == output, answer.stderr


def test_every_command_is_in_the_readme_of_the_command_line() -> None:
    from gen_worker.cli.command import COMMANDS

    rows = (ROOT / "packages/gen-worker-cli/README.md").read_text().split("|")
    named = " ".join(row for row in rows if row.startswith(" `"))
    assert [command.name for command in COMMANDS if f"`{command.name}" not in named] == []
