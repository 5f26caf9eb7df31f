"""Which project a command works on, and what it says when there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Cli

ECHO = """
import msgspec
from gen_worker import RequestContext, inference_function

class In(msgspec.Struct):
    text: str

@inference_function
def echo(ctx: RequestContext, payload: In) -> In:
    return payload
"""


@pytest.mark.claims("project.missing")
@pytest.mark.parametrize(
    "words",
    [["run", "x"], ["describe"], ["repl"], ["prefetch"], ["serve"], ["serve", "--list-functions"]],
)
def test_no_project_is_one_line_and_exit_2(cli: Cli, words: list[str]) -> None:
    done = cli(*words)
    assert (done.stdout, done.code) == ("", 2)
    assert done.stderr == (
        f"gen-worker {words[0]}: no ./endpoint.toml: run this in a project folder, or give "
        "--config PATH or --module MODULE\n"
    )


@pytest.mark.claims("project.config")
def test_config_names_the_project_and_nothing_else_is_looked_at(cli: Cli) -> None:
    (cli.folder / "endpoint.toml").write_text("not toml at all [")
    done = cli("describe", project="shapes")
    assert done.code == 0


@pytest.mark.claims("project.module")
def test_module_needs_no_toml(cli: Cli) -> None:
    (cli.folder / "alone.py").write_text(ECHO)
    (document,) = cli("describe", "--module", "alone").values
    assert isinstance(document, dict)
    assert document["endpoint"]["main_module"] == "alone"


@pytest.mark.claims("project.broken")
@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("import nothing_like_this\n", ["app.py", "nothing_like_this"]),
        ("raise SystemExit(7)\n", ["app.py", "ends the program while it is imported"]),
        ("def broken(:\n", ["app.py"]),
        ("1/0\n", ["app.py", "ZeroDivisionError"]),
        ("x = 1\n", ["no endpoint function in 'app'"]),
    ],
)
def test_a_project_that_cannot_be_imported_is_told_without_traceback(
    cli: Cli, source: str, parts: list[str]
) -> None:
    done = cli("run", "x", project=cli.write_project(source))
    assert (done.stdout, done.code) == ("", 2)
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.mark.claims("project.broken")
def test_every_mistake_of_the_toml_has_a_line_of_its_own(cli: Cli) -> None:
    folder = cli.write_project(ECHO)
    (folder / "endpoint.toml").write_text('schema_version = 2\nmian = "app"\n')
    done = cli("run", "x", project=folder)
    assert done.code == 2
    lines = done.stderr.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("gen-worker run: ") for line in lines)


SAVING = """
import msgspec
from gen_worker import RequestContext, inference_function

class In(msgspec.Struct):
    text: str = ""

class Out(msgspec.Struct):
    ref: str

@inference_function
def save(ctx: RequestContext, payload: In) -> Out:
    return Out(ref=ctx.save_bytes("note.txt", payload.text.encode()).ref)
"""
BROKEN_ENV = "GOOD=1\nnot a setting\n=nameless\n"
ENV_MISTAKES = [
    f".env:{line} is not NAME=value: correct the line, or begin it with # to leave it out"
    for line in (2, 3)
]


@pytest.mark.claims("project.settings")
@pytest.mark.parametrize("words", [("run", "hi"), ("serve",), ("env",)], ids=lambda words: words[0])
def test_a_broken_dot_env_is_one_line_per_mistake(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli(*words, project=cli.write_project(SAVING, **{".env": BROKEN_ENV}))
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert lines == [f"gen-worker {words[0]}: {mistake}" for mistake in ENV_MISTAKES]
    assert (done.stdout, done.code) == ("", 2)


@pytest.mark.claims("project.settings")
def test_a_server_whose_dot_env_is_broken_later_says_so_and_goes_on(cli: Cli) -> None:
    folder = cli.write_project(SAVING)
    server = cli.start("serve", project=folder)
    assert server.stderr is not None
    while "serve: ready" not in server.stderr.readline():
        assert server.poll() is None
    (folder / ".env").write_text(BROKEN_ENV)
    frames = '{"op":"invoke","id":1,"function":"save","payload":{"text":"hi"}}\n'
    stdout, stderr = server.communicate(frames, timeout=30)
    assert '"exit_code":2' in stdout
    assert all(mistake in stderr for mistake in ENV_MISTAKES)
    assert "Traceback" not in stderr


@pytest.mark.claims("output.author-prints")
def test_prints_at_import_do_not_reach_stdout(cli: Cli) -> None:
    folder = cli.write_project(f"print('loading')\n{ECHO}")
    done = cli("describe", project=folder)
    assert len(done.values) == 1
    assert "loading" in done.stderr
