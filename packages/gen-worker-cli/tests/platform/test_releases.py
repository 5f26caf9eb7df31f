"""`gen-worker deploy`, `promote`, `rollback`, `releases`, `worker`: against a real platform."""

from __future__ import annotations

import os
import queue
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from gen_worker.cli.platform.api import Api
from gen_worker.cli.platform.packing import pack

if TYPE_CHECKING:
    import subprocess

    from conftest import Cli, Platform, Project, StartUp


pytestmark = pytest.mark.one_python


class Lines:
    """What a command prints, as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        self._stream = process.stdout
        threading.Thread(target=self._read, daemon=True).start()

    def expect(self, text: str) -> None:
        """Wait for the next line that has `text`."""
        while text not in self._lines.get(timeout=60):
            pass

    def _read(self) -> None:
        assert self._stream is not None
        for line in self._stream:
            self._lines.put(line)


def deploy(cli: Cli, project: Project, *words: str) -> dict[str, object]:
    done = cli("deploy", *words, project=project.folder)
    assert done.code == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=dict[str, object])


def asked(cli: Cli, *words: str) -> str:
    done = cli(*words)
    assert done.code == 0, done.stderr
    return done.stdout


@pytest.fixture
def platform(start_up: StartUp) -> Platform:
    return start_up("--no-hub")


@pytest.mark.claims("deploy.publishes", "deploy.tags", "promote.moves", "rollback.moves")
def test_traffic_moves_with_the_tag(cli: Cli, project: Project, platform: Platform) -> None:
    platform.expect("run `gen-worker deploy`")
    first = deploy(cli, project)
    assert (first["owner"], first["endpoint"]) == ("ann", "shout")
    assert (first["is_new"], first["tags"]) == (True, ["prod"])
    assert platform.call() == "one x"

    project.write("two")
    second = deploy(cli, project)
    assert (second["is_new"], second["tags"]) == (True, [])
    assert platform.call() == "one x"
    again = deploy(cli, project)
    assert (again["is_new"], again["release_id"]) == (False, second["release_id"])

    asked(cli, "promote", "shout", "--reason", "better")
    assert platform.call() == "two x"
    asked(cli, "rollback", "ann/shout")
    assert platform.call() == "one x"
    asked(cli, "rollback", "shout", "--forward")
    assert platform.call() == "two x"

    project.write("three")
    deploy(cli, project, "--tag", "canary")
    assert platform.call(name="shout/say:canary") == "three x"
    assert platform.call() == "two x"
    deploy(cli, project, "--promote")
    assert platform.call() == "three x"
    asked(cli, "promote", "shout", str(first["release_id"])[:12])
    assert platform.call() == "one x"


@pytest.mark.claims("releases.list", "releases.history", "releases.delete")
def test_releases_and_what_happened_to_their_tags(
    cli: Cli, project: Project, platform: Platform
) -> None:
    first = deploy(cli, project)["release_id"]
    project.write("two")
    second = deploy(cli, project)["release_id"]
    asked(cli, "promote", "shout", "--reason", "better")
    rows = platform.rows("releases", "releases", "shout")
    assert [(row["release_id"], row["tags"]) for row in rows] == [(second, ["prod"]), (first, [])]
    changes = platform.rows("releases", "changes", "shout", "--history")
    assert (changes[0]["action"], changes[0]["reason"]) == ("promote", "better")
    assert [change["changed_by"] for change in changes] == ["ann", "ann"]
    refused = cli("releases", "shout", "--delete", str(second))
    assert refused.code != 0
    assert "Traceback" not in refused.stderr
    asked(cli, "releases", "shout", "--delete", str(first)[:16])
    assert [row["release_id"] for row in platform.rows("releases", "releases")] == [second]


def publish_many(platform: Platform, project: Project, count: int, *, by: str) -> list[str]:
    """Publish a project with other words each time, as quickly as can be; return the ids."""
    (row,) = platform.ask("GET", "/v1/releases")["releases"][:1]
    name = {key: row[key] for key in ("owner", "endpoint", "environment")}
    path = "/v1/releases/{owner}/{endpoint}/".format(**name) + row["release_id"]
    with open(platform.ask("GET", path)["lock"], "rb") as file:
        lock = file.read()
    api, ids = Api(platform.url), []
    for number in range(count):
        project.write(f"{by} {number}")
        with tempfile.TemporaryFile() as packed:
            pack(str(project.folder), lock, packed, own_folder="")
            size = packed.tell()
            packed.seek(0)
            ids.append(api.upload("/v1/releases", packed, size, **name, by=by)["release_id"])
    return ids


@pytest.mark.claims("releases.prune")
def test_old_releases_that_nothing_needs_are_deleted(
    cli: Cli, project: Project, platform: Platform
) -> None:
    first = deploy(cli, project)["release_id"]
    ids = publish_many(platform, project, 4, by="ann")
    asked(cli, "promote", "shout", ids[1], "--tag", "canary")
    gone = platform.rows("releases", "releases", "shout", "--prune", "2")
    assert [row["release_id"] for row in gone] == [ids[0]]
    rows = platform.rows("releases", "releases")
    assert [row["release_id"] for row in rows] == [ids[3], ids[2], ids[1], first]
    assert rows[0]["created_by"] == "ann"
    assert platform.rows("releases", "releases", "--prune", "2") == []
    assert cli("releases", "--prune", "-1").code == 2


@pytest.mark.claims("up.prune")
def test_what_reloads_have_left_behind_is_deleted(
    cli: Cli, project: Project, start_up: StartUp
) -> None:
    platform = start_up("--no-hub", project=project)
    platform.expect("serves")
    (first,) = platform.rows("releases", "releases")
    assert first["created_by"] == "up --reload"
    assert platform.stop() == 0

    platform = start_up("--no-hub")  # which looks at no folder
    platform.expect("serves")
    mine = publish_many(platform, project, 2, by="ann")
    old = publish_many(platform, project, 10, by="up --reload")
    platform.run("promote", "shout", old[0])  # what a rollback is to find
    assert platform.stop() == 0

    project.write("last")
    platform = start_up("--no-hub", project=project)
    line = platform.expect("is deleted, it was old")
    assert first["release_id"][:12] in line
    (last, *rows) = platform.rows("releases", "releases")
    assert last["tags"] == ["prod"]
    assert [row["release_id"] for row in rows] == [*reversed(old), *reversed(mine)]


@pytest.mark.claims("deploy.name", "deploy.refusals")
def test_names_and_projects_that_cannot_be_published(
    cli: Cli, project: Project, platform: Platform
) -> None:
    named = deploy(cli, project, "--name", "Bob/Loud Speaker")
    assert (named["owner"], named["endpoint"]) == ("bob", "loud-speaker")
    assert platform.call(name="bob/loud-speaker/say") == "one x"
    for wrong, told in (
        ("!!/x", "is no name"),
        ("bob/", "is no name"),
        (f"{'o' * 97}/x", "at most 96"),
    ):
        refused = cli("deploy", "--name", wrong, project=project.folder)
        assert refused.code != 0
        assert told in refused.stderr

    project.write_source("import nothing_of_that_name\n")
    broken = cli("deploy", project=project.folder)
    assert (broken.code, broken.stdout) == (2, "")
    assert "nothing_of_that_name" in broken.stderr
    assert "is not published" in broken.stderr
    nothing = cli("deploy")
    assert nothing.code == 2
    assert "there is no endpoint.toml" in nothing.stderr


@pytest.mark.claims("promote.name")
def test_a_tag_of_one_function_is_moved(cli: Cli, project: Project, platform: Platform) -> None:
    ids = [str(deploy(cli, project)["release_id"])]
    project.write("two")
    ids.append(str(deploy(cli, project)["release_id"]))
    moves = msgspec.json.decode(asked(cli, "promote", "shout/say:canary", ids[0]))["moves"]
    assert [(move["function"], move["to_release"]) for move in moves] == [("say", ids[0])]
    asked(cli, "promote", "ann/shout/say", ids[1], "--tag", "canary")
    assert platform.call(name="shout/say:canary") == "two x"
    asked(cli, "rollback", "shout/say:canary")
    assert platform.call(name="shout/say:canary") == "one x"

    nothing = cli("rollback", "shout/say:canary")
    assert nothing.code == 1
    assert "ann/shout/say:canary: the tag has pointed to no other release" in nothing.stderr
    for words, told in (
        (("ann/shout/sing",), "'ann/shout' has no function 'sing'; there are: say"),
        (("ann/shuot",), "there is no endpoint 'ann/shuot'"),
        (("shout:canary", "--tag", "dev"), "which tag is meant"),
    ):
        refused = cli("promote", *words)
        assert (refused.code, told in refused.stderr) == (2, True), refused.stderr


@pytest.mark.claims("platform.found", "platform.missing")
def test_where_the_platform_is(cli: Cli, project: Project, platform: Platform) -> None:
    for words in ((), ("--url", platform.url), ("--data", platform.urls["data"])):
        assert platform.run("releases", *words).code == 0
    elsewhere = cli("releases", "--data", "nowhere")
    assert elsewhere.code == 2
    assert "start one with `gen-worker up`" in elsewhere.stderr
    silent = cli("releases", "--url", "http://127.0.0.1:9")
    assert silent.code == 1
    assert "nobody answers at http://127.0.0.1:9" in silent.stderr
    for words in (("promote", "shuot"), ("rollback", "shuot"), ("releases", "shuot")):
        unknown = cli(*words)
        assert (unknown.code, "there is no endpoint 'shuot'" in unknown.stderr) == (2, True)


@pytest.mark.claims("platform.found", "GEN_WORKER_URL", "GEN_WORKER_DATA_DIR", "XDG_DATA_HOME")
def test_the_surroundings_say_where_the_platform_is(cli: Cli, platform: Platform) -> None:
    data = platform.urls["data"]
    for environment in (
        {"GEN_WORKER_URL": platform.url, "XDG_DATA_HOME": "/nowhere"},
        {"GEN_WORKER_DATA_DIR": data, "XDG_DATA_HOME": "/nowhere"},
        {"XDG_DATA_HOME": os.path.dirname(data)},
    ):
        assert cli("releases", **environment).code == 0
    missing = cli("releases", XDG_DATA_HOME="/nowhere")
    assert (missing.code, "'/nowhere/gen-worker'" in missing.stderr) == (2, True)
    nobody = cli("releases", GEN_WORKER_URL="http://127.0.0.1:9")
    assert nobody.code == 1


@pytest.mark.claims("up.token", "GEN_WORKER_TOKEN")
def test_other_machines_need_a_token(cli: Cli, project: Project, start_up: StartUp) -> None:
    platform = start_up("--no-hub", "--http", "0.0.0.0:0", project=project)
    platform.expect("serves")
    token = cli.folder / ".local" / "share" / "gen-worker" / "scheduler" / "token"
    assert f'"Authorization: Bearer $(cat {token})"' in platform.expect("curl")
    assert cli("releases").code == 0
    refused = cli("releases", "--url", platform.url)
    assert (refused.code, "set GEN_WORKER_TOKEN" in refused.stderr) == (1, True)
    secret = token.read_text().strip()
    assert cli("releases", "--url", platform.url, GEN_WORKER_TOKEN=secret).code == 0


@pytest.mark.claims("worker.starts")
def test_a_worker_that_is_started_by_hand(cli: Cli, project: Project, start_up: StartUp) -> None:
    platform = start_up("--workers", "0", "--no-hub", project=project)
    platform.expect("is deployed")
    worker = cli.start("worker", "shout", "--name", "mine")
    try:
        assert platform.call() == "one x"
        (row,) = platform.ask("GET", "/v1/workers")["workers"]
        assert row["worker_id"] == "mine"
    finally:
        worker.terminate()
        worker.communicate()
    assert worker.returncode == 0
    refused = cli("worker", "shout", "--tag", "nothing")
    assert (refused.code, "has no tag 'nothing'" in refused.stderr) == (2, True)


@pytest.mark.claims("requests.list", "requests.show", "requests.cancel")
def test_requests_are_listed_shown_and_canceled(
    cli: Cli, project: Project, start_up: StartUp
) -> None:
    platform = start_up("--workers", "0", "--no-hub", project=project)
    platform.expect("is deployed")
    ids = [platform.submit(str(number)) for number in range(3)]
    rows = platform.rows("requests", "requests", "--status", "queued")
    assert [row["request_id"] for row in rows] == ids[::-1]
    assert len(platform.rows("requests", "requests", "--limit", "2")) == 2
    assert platform.rows("requests", "requests", "--function", "nothing") == []
    for name, count in (("ann/shout/say:prod", 3), ("shout/say", 3), ("bob/shout/say", 0)):
        assert len(platform.rows("requests", "requests", "--function", name)) == count
    assert msgspec.json.decode(asked(cli, "requests", ids[0]))["status"] == "queued"
    assert f"{ids[0]} is canceled" in cli("requests", ids[0], "--cancel").stderr
    ended = cli("requests", ids[0], "--cancel")
    assert (ended.code, "had ended already: canceled" in ended.stderr) == (1, True)
    assert cli("requests", "--cancel").code == 2
    assert cli("requests", "--cancel", "--function", "say").code == 0
    assert {row["status"] for row in platform.rows("requests", "requests")} == {"canceled"}


@pytest.mark.claims("invoke.url")
def test_a_platform_is_called_from_the_command_line(
    cli: Cli, project: Project, start_up: StartUp
) -> None:
    platform = start_up("--no-hub", project=project)
    words = ("invoke", "shout/say:prod", "hello", "--url", platform.url)
    done = cli(*words, project=project.folder)
    assert (done.stdout, done.stderr, done.code) == ('{"text":"one hello"}\n', "", 0)
    whole = cli("invoke", "say", '{"text": "x"}', "--url", platform.url)
    assert (whole.stdout, whole.code) == ('{"text":"one x"}\n', 0)
    wrong = cli("invoke", "say", "{}", "--url", platform.url)
    assert (wrong.stdout, wrong.code) == ("", 2)
    unknown = cli("invoke", "sya", "{}", "--url", platform.url)
    assert (unknown.stdout, unknown.code) == ("", 2)

    slow = cli.start("invoke", "say", '{"text": "x", "delay_s": 60}', "--url", platform.url)
    (row,) = platform.until(lambda: platform.ask("GET", "/v1/requests?status=running")["requests"])
    slow.send_signal(signal.SIGINT)
    slow.communicate(timeout=60)
    assert slow.returncode == 130
    assert platform.ended(row["request_id"])["status"] == "canceled"


_COUNTS = """
from collections.abc import Iterator
import msgspec
from gen_worker import RequestContext, inference_function

class In(msgspec.Struct):
    fails: bool = False

class Word(msgspec.Struct):
    text: str

@inference_function
def count(ctx: RequestContext, payload: In) -> Iterator[Word]:
    ctx.progress(0.25, stage="thinking")
    ctx.log("here it comes")
    ctx.emit("mood", {"is": "good"})
    yield Word("one")
    if payload.fails:
        raise ValueError("no more numbers")
"""


@pytest.mark.claims("requests.follow")
def test_a_request_is_followed(cli: Cli, project: Project, start_up: StartUp) -> None:
    project.write_source(_COUNTS)
    platform = start_up("--no-hub", project=project)
    for fails, code, last in ((False, 0, '{"yielded":1}'), (True, 2, '{"text":"one"}')):
        body = {"function": "shout/count", "payload": {"fails": fails}}
        request_id = platform.ask("POST", "/v1/requests", body)["request_id"]
        for _ in range(2):  # while it runs, and when it is over
            done = cli("requests", request_id, "--follow")
            assert done.code == code, done.stderr
            assert done.stdout.splitlines()[0] == '{"text":"one"}'
            assert done.stdout.splitlines()[-1] == last
            told = '25% thinking\ninfo: here it comes\nmood {"is":"good"}\n'
            assert fails or told in done.stderr  # reports and failures come on two streams
            assert ("no more numbers" in done.stderr) == fails
    assert cli("requests", "--follow").code == 2
    assert cli("requests", "nothing", "--follow").code == 1


_SIZES = """
import msgspec
from gen_worker import Asset, RequestContext, inference_function

class In(msgspec.Struct):
    image: Asset
    more: list[Asset] = []

class Out(msgspec.Struct):
    sizes: list[int]

@inference_function
def measure(ctx: RequestContext, payload: In) -> Out:
    files = [payload.image, *payload.more]
    return Out([len(file.read_bytes()) for file in files])
"""


@pytest.mark.claims("invoke.url-files")
def test_files_are_sent_to_a_platform(
    cli: Cli, project: Project, elsewhere: Path, start_up: StartUp
) -> None:
    project.write_source(_SIZES)
    platform = start_up("--no-hub", project=project)
    for folder in (project.folder, elsewhere):
        (folder / "cat.png").write_bytes(b"\x89PNG" + bytes(996))
        (folder / "dog.png").write_bytes(b"\x89PNG" + bytes(1996))
    url = ("--url", platform.url)
    words = ("invoke", "shout/measure", "image@cat.png", "more@dog.png", "more@cat.png", *url)
    done = cli(*words, project=project.folder)
    assert (done.stdout, done.code) == ('{"sizes":[1000,2000,1000]}\n', 0), done.stderr
    guessed = cli("invoke", "shout/measure", "image@dog.png", *url, project=elsewhere)
    assert (guessed.stdout, guessed.code) == ('{"sizes":[2000]}\n', 0), guessed.stderr
    missing = cli("invoke", "shout/measure", "image@fox.png", *url, project=project.folder)
    assert (missing.code, "no file 'fox.png'" in missing.stderr) == (2, True)


@pytest.mark.claims("ps.rows", "logs.lines")
def test_processes_and_their_lines(cli: Cli, project: Project, start_up: StartUp) -> None:
    project.write_source(
        (project.folder / "app.py").read_text() + "\nprint('loaded', flush=True)\n"
    )
    platform = start_up("--no-hub", project=project)
    assert platform.call() == "one x"
    platform.await_workers(1)
    rows = platform.processes()
    assert sorted(rows) == ["scheduler", "shout.1", "up"]
    assert rows["up"]["pid"] == platform.process.pid
    assert all(row["memory_bytes"] > 1_000_000 for row in rows.values())
    assert rows["shout.1"]["worker"]["endpoint"] == "shout"
    assert "shout.1 | loaded" in asked(cli, "logs", "shout")
    assert "worker.startup.phase" in asked(cli, "logs", "shout.1", "--raw")
    last = asked(cli, "logs", "-n", "1").splitlines()
    assert len(last) <= 1
    unknown = cli("logs", "nobody")
    assert (unknown.code, "nothing is called 'nobody'" in unknown.stderr) == (2, True)


@pytest.mark.claims("logs.lines")
def test_logs_are_followed_through_restarts_and_new_files(
    cli: Cli, project: Project, start_up: StartUp
) -> None:
    project.write_source(
        (project.folder / "app.py").read_text() + "\nprint('loaded', flush=True)\n"
    )
    platform = start_up("--no-hub", project=project)
    platform.await_workers(1)
    following = cli.start("logs", "shout", "-f", "--raw")
    lines = Lines(following)
    try:
        lines.expect("shout.1 loaded")
        os.kill(platform.processes()["shout.1"]["pid"], signal.SIGKILL)
        lines.expect("shout.1 loaded")
        log = Path(platform.urls["data"], "logs", "shout.1.log")
        at = log.read_text().split()[0]
        log.rename(f"{log}.1")  # as when it has become too long
        with Path(f"{log}.1").open("a") as file:
            file.write(f"{at} last of the old\n")
        log.write_text(f"{at} first of the new\n")
        lines.expect("shout.1 last of the old")
        lines.expect("shout.1 first of the new")
        (log.parent / "shout.2.log").write_text(f"{at} a second worker\n")
        lines.expect("shout.2 a second worker")
    finally:
        following.send_signal(signal.SIGINT)
        assert following.wait(60) == 130
