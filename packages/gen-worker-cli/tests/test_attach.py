"""`gen-worker run` beside a running server."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess

    from conftest import Cli

PROJECT = """
import os
import msgspec
from collections.abc import Iterator
from gen_worker import RequestContext, inference_function

class In(msgspec.Struct):
    text: str = ""

class Out(msgspec.Struct):
    pid: int

@inference_function
def who(ctx: RequestContext, payload: In) -> Iterator[Out]:
    ctx.log("asked")
    yield Out(pid=os.getpid())

@inference_function
def fail(ctx: RequestContext, payload: In) -> Out:
    raise RuntimeError("boom")

@inference_function
def spin(ctx: RequestContext, payload: In) -> Out:
    ctx.log("spinning")
    while True:
        ctx.raise_if_canceled()
"""


@pytest.fixture
def server(cli: Cli) -> subprocess.Popen[str]:
    """Serve the test's own folder."""
    return serve(cli)


def serve(cli: Cli) -> subprocess.Popen[str]:
    process = cli.start("serve", "--no-stdin", project=cli.write_project(PROJECT))
    assert process.stderr is not None
    for line in process.stderr:
        if line == "gen-worker serve: ready\n":
            return process
    raise AssertionError("the server did not start")


def pid_of(cli: Cli, *words: str) -> int:
    done = cli("run", "who", "--raw", *words, project=cli.folder)
    first, last = done.values
    assert last == {"yielded": 1}
    assert isinstance(first, dict)
    return int(first["pid"])


@pytest.mark.claims("attach.warm")
def test_the_server_of_this_folder_answers(cli: Cli, server: subprocess.Popen[str]) -> None:
    assert pid_of(cli) == server.pid
    done = cli("run", "who", project=cli.folder)
    assert done.stdout == (
        f'{{"event":"yield","value":{{"pid":{server.pid}}}}}\n'
        '{"event":"result","value":{"yielded":1}}\n'
    )
    assert [report["type"] for report in done.reports] == ["request.log"]


@pytest.mark.claims("attach.failures")
def test_failures_have_the_same_exit_codes(cli: Cli, server: subprocess.Popen[str]) -> None:
    done = cli("run", "fail", project=cli.folder)
    assert (done.stdout, done.code) == ("", 1)
    assert done.stderr == "gen-worker run: user_exception: internal error\n"
    assert cli("run", "fail", "--payload", '{"text": 1}', project=cli.folder).code == 2


@pytest.mark.claims("attach.sigint")
def test_ctrl_c_cancels_at_the_server(cli: Cli, server: subprocess.Popen[str]) -> None:
    process = cli.start("run", "spin", project=cli.folder)
    assert process.stderr is not None
    assert "spinning" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert pid_of(cli) == server.pid


@pytest.mark.claims("attach.flags")
def test_no_attach_runs_here(cli: Cli, server: subprocess.Popen[str]) -> None:
    assert pid_of(cli, "--no-attach") != server.pid


@pytest.mark.claims("attach.options")
@pytest.mark.parametrize("option", ["--offline", "--allow-publish", "--device=cpu", "-o=out"])
def test_an_option_the_server_cannot_take_means_a_run_of_its_own(
    cli: Cli, server: subprocess.Popen[str], option: str
) -> None:
    assert pid_of(cli, option) != server.pid
    done = cli("run", "who", "--attach", option, project=cli.folder)
    assert done.code == 2
    assert "cannot be set for a running server" in done.stderr


@pytest.mark.claims("attach.other-project")
def test_a_server_of_another_project_is_left_alone(cli: Cli, server: subprocess.Popen[str]) -> None:
    config = str(cli.config_of("shapes"))
    assert cli("run", "echo", "a", "--raw", "--config", config).values == [{"text": "a"}]
    done = cli("run", "echo", "a", "--attach", "--config", config)
    assert done.code == 2
    assert "serves another project" in done.stderr


@pytest.mark.claims("attach.dead-socket")
def test_a_dead_socket_is_ignored(cli: Cli) -> None:
    process = serve(cli)
    process.kill()
    process.wait()
    assert (cli.folder / ".gen-worker.sock").is_socket()
    assert pid_of(cli) > 0
    done = cli("run", "who", "--attach", project=cli.folder)
    assert done.code == 2
    assert "cannot attach: no server answers" in done.stderr


@pytest.mark.claims("attach.dead-socket")
def test_a_socket_of_something_else_is_ignored(cli: Cli) -> None:
    folder = cli.write_project(PROJECT)
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(folder / ".gen-worker.sock"))
        foreign.listen()
        assert pid_of(cli) > 0


@pytest.mark.claims("attach.flags")
def test_attach_without_a_server_is_exit_2(cli: Cli) -> None:
    done = cli("run", "who", "--attach", project=cli.write_project(PROJECT))
    assert done.code == 2
    assert "cannot attach: no server at ./.gen-worker.sock" in done.stderr


@pytest.mark.claims("attach.stale")
def test_older_code_at_the_server_is_told(cli: Cli, server: subprocess.Popen[str]) -> None:
    later = time.time() + 60
    os.utime(cli.folder / "app.py", (later, later))
    done = cli("run", "who", project=cli.folder)
    assert done.code == 0
    assert "the server runs older code: app.py changed since it started" in done.stderr
