"""`gen-worker up`: everything of production on one machine, from its start to its end."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import pytest

if TYPE_CHECKING:
    from conftest import Cli, Project, StartUp


pytestmark = pytest.mark.one_python


@pytest.mark.claims("up.serves", "up.messages", "up.output", "up.data")
def test_a_project_answers_over_http(cli: Cli, project: Project, start_up: StartUp) -> None:
    platform = start_up(project=project)
    assert platform.call("hello") == "one hello"
    assert platform.call("hello", name="ann/shout/say:prod") == "one hello"
    data = cli.folder / ".local" / "share" / "gen-worker"
    assert platform.urls["data"] == str(data)
    platform.expect(f"gen-worker up: the API is {platform.url}, data is kept in {data}")
    platform.expect("try it:")
    line = platform.expect("curl")
    assert "worker.startup.phase" not in platform.transcript
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    done = subprocess.run(
        ["curl", "-s", *shlex.split(line)[1:]], capture_output=True, text=True, check=True
    )
    assert msgspec.json.decode(done.stdout)["success"], done.stdout


@pytest.mark.claims("up.stop", "up.continues")
def test_ctrl_c_ends_everything_and_the_next_one_continues(
    project: Project, start_up: StartUp
) -> None:
    platform = start_up(project=project)
    assert platform.call() == "one x"
    pids = [row["pid"] for row in platform.processes().values()]
    assert len(pids) == 4
    assert platform.stop() == 0
    assert platform.transcript.endswith("gen-worker up: stopped\n")
    platform.await_gone(pids)

    again = start_up()  # in no project's folder
    assert again.call() == "one x"
    assert again.stop(signal.SIGTERM) == 0


@pytest.mark.claims("up.reload", "up.reload-broken")
def test_a_change_is_deployed_and_a_mistake_is_told(project: Project, start_up: StartUp) -> None:
    platform = start_up(project=project)
    assert platform.call() == "one x"
    project.write_source("import nothing_of_that_name\n")
    platform.expect("app.py changed, deploying it")
    platform.expect("nothing_of_that_name")
    platform.expect("was not deployed: waiting for a change; what ran before goes on")
    assert platform.call() == "one x"
    project.write("two")
    platform.expect("is deployed")
    assert platform.call() == "two x"
    (release,) = platform.rows("releases", "releases")[:1]
    assert release["tags"] == ["prod"]


@pytest.mark.claims("up.no-reload")
def test_without_reload_tags_stay_where_they_are(project: Project, start_up: StartUp) -> None:
    platform = start_up("--no-reload", project=project)
    assert platform.call() == "one x"
    assert platform.stop() == 0
    project.write("two")
    again = start_up("--no-reload", project=project)
    again.expect("serves")
    assert again.call() == "one x"
    assert len(again.rows("releases", "releases")) == 1


@pytest.mark.claims("up.tag")
def test_another_tag_than_prod(project: Project, start_up: StartUp) -> None:
    platform = start_up("--tag", "dev", project=project)
    platform.expect("serves")
    project.write("two")
    platform.expect("changed, deploying it")
    platform.expect("is deployed")
    assert platform.call(name="shout/say:dev") == "two x"
    assert platform.call() == "one x"


@pytest.mark.claims("up.requests-kept")
def test_requests_survive_the_platform(project: Project, start_up: StartUp) -> None:
    platform = start_up("--workers", "0", project=project)
    platform.expect("is deployed")
    kept = [platform.submit(f"{number}") for number in range(3)]
    assert [row["status"] for row in platform.rows("requests", "requests")] == ["queued"] * 3
    assert platform.stop() == 0
    again = start_up(project=project)
    for number, request_id in enumerate(kept):
        assert again.ended(request_id)["output"]["text"] == f"one {number}"


@pytest.mark.claims("up.drain")
def test_a_request_that_runs_is_let_end(project: Project, start_up: StartUp) -> None:
    platform = start_up(project=project)
    assert platform.call() == "one x"
    request_id = platform.submit("slow", delay_s=2)
    platform.await_status(request_id, "running")
    assert platform.stop() == 0
    again = start_up()
    found = again.ended(request_id)
    assert (found["output"]["text"], found["attempt"]) == ("one slow", 1)


@pytest.mark.claims("up.stop-twice")
def test_a_second_ctrl_c_ends_at_once_and_loses_nothing(
    project: Project, start_up: StartUp
) -> None:
    platform = start_up(project=project)
    assert platform.call() == "one x"
    request_id = platform.submit("slow", delay_s=3)
    platform.await_status(request_id, "running")
    pids = [row["pid"] for row in platform.processes().values()]
    platform.process.send_signal(signal.SIGINT)
    platform.expect("stopping")
    assert platform.stop() == 130
    platform.await_gone(pids)
    assert start_up().ended(request_id)["output"]["text"] == "one slow"


@pytest.mark.claims("up.restarts")
@pytest.mark.parametrize("name", ["hub", "scheduler", "shout.1"])
def test_what_is_killed_is_started_again(name: str, project: Project, start_up: StartUp) -> None:
    platform = start_up(project=project)
    assert platform.call() == "one x"
    request_id = platform.submit("slow", delay_s=1.5)
    platform.await_status(request_id, "running")
    before = platform.processes()[name]
    os.kill(before["pid"], signal.SIGKILL)
    platform.expect(f"{name} was ended by SIGKILL")
    platform.await_answer()
    assert platform.ended(request_id)["output"]["text"] == "one slow"
    assert platform.call() == "one x"
    after = platform.processes()[name]
    assert after["pid"] != before["pid"]
    assert (before["restarts"], after["restarts"]) == (0, 1)
    assert platform.stop() == 0


@pytest.mark.claims("up.killed")
def test_nothing_outlives_a_platform_that_is_killed(project: Project, start_up: StartUp) -> None:
    platform = start_up(project=project)
    assert platform.call() == "one x"
    request_id = platform.submit("slow", delay_s=1)
    platform.await_status(request_id, "running")
    pids = [row["pid"] for row in platform.processes().values()]
    assert platform.stop(signal.SIGKILL) == -signal.SIGKILL
    platform.await_gone(pids)
    again = start_up()
    assert again.ended(request_id)["output"]["text"] == "one slow"
    assert again.stop() == 0


@pytest.mark.claims("up.serves", "up.killed")
def test_two_projects_survive_the_death_of_everything(
    cli: Cli, project: Project, start_up: StartUp
) -> None:
    other = type(project)(cli.folder / "whisper")
    (other.folder / "endpoint.toml").write_text(
        (project.folder / "endpoint.toml").read_text().replace("shout", "whisper")
    )
    other.write("psst")
    platform = start_up(str(project.folder), str(other.folder))
    assert platform.call(name="shout/say") == "one x"
    assert platform.call(name="whisper/say") == "psst x"
    request_id = platform.submit("slow", delay_s=1)
    platform.await_status(request_id, "running")
    pids = [row["pid"] for row in platform.processes().values()]
    assert len(pids) == 5
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    platform.wait()
    platform.await_gone(pids)
    again = start_up()
    again.expect("serves")
    again.expect("serves")
    assert again.ended(request_id)["output"]["text"] == "one slow"
    assert again.call(name="whisper/say") == "psst x"


@pytest.mark.claims("up.killed")
def test_the_next_one_ends_what_a_killed_one_left(project: Project, start_up: StartUp) -> None:
    platform = start_up(project=project)
    assert platform.call() == "one x"
    # One that cannot see that it is alone.
    stopped = platform.processes()["hub"]["pid"]
    os.kill(stopped, signal.SIGSTOP)
    assert platform.stop(signal.SIGKILL) == -signal.SIGKILL
    again = start_up()
    again.expect("ending what the last one left")
    platform.await_gone([stopped])
    assert again.call() == "one x"


@pytest.mark.claims("up.taken")
def test_a_data_folder_has_one(project: Project, start_up: StartUp) -> None:
    platform = start_up()
    second = start_up(project=project, is_open=False)
    assert second.wait() == 2
    assert f"as process {platform.process.pid}: use that one" in second.transcript
    assert "scheduler" in platform.processes()


@pytest.mark.claims("up.taken")
def test_of_two_at_the_same_moment_one_has_the_folder(project: Project, start_up: StartUp) -> None:
    both = [start_up("--no-hub", project=project, is_open=False) for _ in range(2)]
    (loser,) = both[0].until(lambda: [one for one in both if one.process.poll() == 2])
    winner = both[0] if loser is both[1] else both[1]
    assert loser.wait() == 2
    assert f"as process {winner.process.pid}: use that one" in loser.transcript
    assert winner.open().call() == "one x"


@pytest.mark.claims("up.token")
def test_of_two_at_the_same_moment_each_has_ports_of_its_own(
    cli: Cli, project: Project, start_up: StartUp
) -> None:
    usual = ("--http", "")
    both = [
        start_up(*usual, "--data", str(cli.folder / name), project=project, is_open=False)
        for name in "ab"
    ]
    for platform in both:
        assert platform.open().call() == "one x"
    for name in ("url", "hub", "data"):
        assert len({platform.urls[name] for platform in both}) == 2


@pytest.mark.claims("up.cannot-start")
def test_what_cannot_be_started_is_one_line(cli: Cli, project: Project, start_up: StartUp) -> None:
    platform = start_up()
    port = platform.url.rpartition(":")[2]
    second = cli("up", "--data", "other", "--http", f"127.0.0.1:{port}")
    assert (second.code, second.stdout) == (2, "")
    assert f"cannot listen on 127.0.0.1:{port}" in second.stderr
    missing = cli("up", "nowhere", str(project.folder), "nothing")
    assert missing.code == 2
    assert [line.partition("endpoint.toml")[0] for line in missing.stderr.splitlines()] == [
        "gen-worker up: there is no "
    ] * 2


@pytest.mark.claims("up.cannot-start", "up.token")
def test_the_usual_port_gives_way_only_if_nobody_named_it(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # its last user may have gone
        with suppress(OSError):  # somebody else has it
            taken.bind(("127.0.0.1", 8787))
            taken.listen()
        done = cli("up", "--data", "other", "--http", "127.0.0.1:8787")
    assert (done.code, "cannot listen on 127.0.0.1:8787" in done.stderr) == (2, True)


@pytest.mark.claims("up.workers")
def test_each_endpoint_has_as_many_workers_as_are_wanted(
    project: Project, start_up: StartUp
) -> None:
    platform = start_up("--workers", "2", "--no-hub", project=project)
    assert platform.call() == "one x"
    platform.await_workers(2)
    assert sorted(platform.processes()) == ["scheduler", "shout.1", "shout.2", "up"]
