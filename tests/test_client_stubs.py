"""What `gen-worker client generate` writes for the examples passes a strict type checker."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gen_worker.client import generate

ROOT = Path(__file__).parents[1]
EXAMPLES = ("class-endpoint", "image-tools", "marco-polo", "text-stream")
USES = """
from pathlib import Path

from gen_worker.client import AsyncClient, Client

import class_endpoint
import image_tools
import marco_polo
import text_stream


def use(client: Client) -> None:
    answer: str = marco_polo.MarcoPolo(client).marco_polo(marco_polo.Call(text="marco")).response
    words = [word.text for word in text_stream.TextStream(client).write()]
    tools = image_tools.ImageTools(client)
    width: int = tools.describe(image_tools.Picture(image=Path("x.png"))).width
    ref: str = tools.resize(image_tools.Resize(image=Path("x.png"), format="png")).image.ref
    library = class_endpoint.ClassEndpoint(client, tag="staging")
    score: float = library.search(class_endpoint.Question(query="x")).hits[0].score
    print(answer, words, width, ref, score)


async def use_async(client: AsyncClient) -> None:
    stream = text_stream.AsyncTextStream(client)
    words: list[str] = [word.text async for word in stream.write(text_stream.Prompt(words=3))]
    print(words)
"""
WRONG = """
from gen_worker.client import Client

import text_stream


def use(client: Client) -> None:
    text_stream.TextStream(client).write(text_stream.Prompt(words="three"))
"""


def functions_of(example: str) -> list[dict[str, Any]]:
    """Return what a host of an example lists."""
    described = subprocess.run(
        [sys.executable, "-m", "gen_worker.cli", "describe"],
        cwd=ROOT / "examples" / example,
        capture_output=True,
        check=True,
    )
    functions: list[dict[str, Any]] = msgspec.json.decode(described.stdout)["functions"]
    return [{**function, "name": function["slug"], "endpoint": example} for function in functions]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    for example in EXAMPLES:
        text = generate(functions_of(example))
        (folder / f"{example.replace('-', '_')}.py").write_text(text, encoding="utf-8")
    return folder


def check(folder: Path, program: str, cache: Path) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(program)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")]
    command = [*mypy, "--cache-dir", str(cache), *map(str, sorted(folder.glob("*.py")))]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_strict_checker_accepts_it(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    done = check(folder, USES, cache)
    assert done.returncode == 0, done.stdout
    done = check(folder, WRONG, cache)
    assert 'incompatible type "str"; expected "int"' in done.stdout


def test_a_linter_accepts_it(folder: Path) -> None:
    rules = ["--isolated", "--select", "E,F,B,UP,D,PT,RUF", "--ignore", "D1,E501"]
    rules += ["--config", 'lint.pydocstyle.convention = "google"', "--target-version", "py311"]
    files = [str(path) for path in folder.glob("*_*.py")]
    command = [sys.executable, "-m", "ruff", "check", *rules, *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
