"""`gen-worker hub`: a hub served from a folder, and models pushed to it and pulled from it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Cli, Finished, Hub


@pytest.fixture
def hub(start_hub: Callable[..., Hub]) -> Hub:
    return start_hub()


@pytest.fixture
def act(cli: Cli, hub: Hub) -> Callable[..., Finished]:
    """Run an action against the hub."""

    def run(*words: str) -> Finished:
        return cli("hub", *words, TENSORHUB_URL=hub.url)

    return run


def write(folder: Path, **files: str) -> str:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return str(folder)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


@pytest.mark.claims("hub.push", "hub.pull", "hub.output", "hub.address", "hub.serve")
def test_a_pushed_folder_is_pulled(cli: Cli, act: Callable[..., Finished], hub: Hub) -> None:
    model = write(cli.folder / "model", a="one", b="two")
    pushed = act("push", model, "acme/model#bf16")
    (document,) = pushed.values
    assert isinstance(document, dict)
    assert (pushed.code, pushed.stderr) == (0, "")
    assert (document["ref"], document["tags"], document["flavors"]) == (
        "acme/model:prod#bf16",
        ["prod"],
        ["bf16"],
    )
    assert (document["files"], document["size_bytes"], document["sent_bytes"]) == (2, 6, 6)

    pulled = act("pull", "acme/model")
    (document,) = pulled.values
    assert isinstance(document, dict)
    assert contents(cli.folder / "model") == {"a": "one", "b": "two"}
    assert document["fetched_bytes"] == 0  # the folder of that name is the one that was pushed

    other = cli("hub", "pull", "acme/model#bf16", "copy", "--url", hub.url)
    assert other.code == 0
    assert contents(cli.folder / "copy") == {"a": "one", "b": "two"}
    assert hub.announced["dir"] == str(cli.folder / "hub")
    assert hub.announced["token_file"] is None


@pytest.mark.claims("hub.push")
def test_a_second_push_replaces_the_files_unless_told_to_keep_them(
    cli: Cli, act: Callable[..., Finished]
) -> None:
    act("push", write(cli.folder / "one", a="1", b="1"), "acme/model")
    (kept,) = act("push", write(cli.folder / "two", b="2"), "acme/model", "--keep").values
    act("pull", "acme/model", "first")
    act("push", write(cli.folder / "three", b="3"), "acme/model:v3")
    act("pull", "acme/model:latest", "second")
    assert isinstance(kept, dict)
    assert kept["sent_bytes"] == 1
    assert contents(cli.folder / "first") == {"a": "1", "b": "2"}
    assert contents(cli.folder / "second") == {"b": "3"}


@pytest.mark.claims("hub.ls", "hub.tag", "hub.push")
def test_flavors_and_tags_are_listed_and_moved(cli: Cli, act: Callable[..., Finished]) -> None:
    act("push", write(cli.folder / "one", a="1"), "acme/model#bf16")
    act("push", write(cli.folder / "two", a="22"), "acme/model#fp8", "--default-flavor", "bf16")
    act("push", write(cli.folder / "two", a="22"), "other/model:latest")
    tagged = act("tag", "acme/model#fp8", "v1")
    (repos,), (one,), (others,) = (
        act("ls").values,
        act("ls", "acme/model").values,
        act("ls", "other").values,
    )
    assert isinstance(repos, list)
    assert isinstance(one, list)
    assert isinstance(others, list)
    assert tagged.code == 0
    assert [f"{repo['owner']}/{repo['name']}" for repo in repos] == ["acme/model", "other/model"]
    assert [tag["tag"] for tag in others[0]["tags"]] == ["latest"]
    tags = {tag["tag"]: tag for tag in one[0]["tags"]}
    assert {name: tag["default_flavor"] for name, tag in tags.items()} == {
        "latest": "fp8",
        "prod": "bf16",
        "v1": "fp8",
    }
    assert tags["prod"]["flavors"]["fp8"]["size_bytes"] == 2
    refused = act("tag", "acme/model", "latest")
    assert refused.code == 2
    assert "moves by itself" in refused.stderr


@pytest.mark.claims("hub.pull")
def test_a_ref_that_does_not_exist_names_what_there_is(
    cli: Cli, act: Callable[..., Finished]
) -> None:
    act("push", write(cli.folder / "one", a="1"), "acme/model#bf16")
    for ref, text in (
        ("acme/other", "no repository"),
        ("acme/model:v9", "'latest', 'prod'"),
        ("acme/model#int4", "'bf16'"),
    ):
        done = act("pull", ref, "copy")
        assert (done.code, done.stdout, done.stderr.count("\n")) == (3, "", 1)
        assert text in done.stderr
    assert not (cli.folder / "copy").exists()


@pytest.mark.claims("hub.gc", "hub.state")
def test_a_hub_is_killed_started_again_and_swept(cli: Cli, start_hub: Callable[..., Hub]) -> None:
    hub = start_hub()
    model = write(cli.folder / "one", a="first content")
    assert cli("hub", "push", model, "acme/model:latest", "--url", hub.url).code == 0
    model = write(cli.folder / "one", a="second content")
    assert cli("hub", "push", model, "acme/model:latest", "--url", hub.url).code == 0
    hub.stop(signal.SIGKILL)
    hub = start_hub()
    assert cli("hub", "pull", "acme/model:latest", "copy", "--url", hub.url).code == 0
    assert contents(cli.folder / "copy") == {"a": "second content"}
    (kept,) = cli("hub", "gc", "--dir", "hub", "--older-than", "0").values
    (swept,) = cli("hub", "gc", "--dir", "hub", "--older-than", "0", "--untagged").values
    assert isinstance(kept, dict)
    assert isinstance(swept, dict)
    assert (kept["blobs"], swept["blobs"], swept["blob_bytes"]) == (0, 1, 13)
    assert swept["checkpoints"] == 1
    assert cli("hub", "pull", "acme/model:latest", "again", "--url", hub.url).code == 0
    assert cli("hub", "gc", "--dir", "one").code == 2
    assert list(contents(cli.folder / "one")) == ["a"]  # where there is no hub, none is made


def status(url: str, token: str) -> int:
    request = urllib.request.Request(f"{url}/api/v1/repos")
    request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.claims("hub.token")
def test_beyond_this_machine_a_token_is_needed(cli: Cli, start_hub: Callable[..., Hub]) -> None:
    hub = start_hub("--host", "0.0.0.0")
    file = cli.folder / "hub" / "token"
    url = hub.url.replace("0.0.0.0", "127.0.0.1")
    assert hub.announced["token_file"] == str(file)
    assert str(file) in hub.transcript
    assert file.stat().st_mode & 0o777 == 0o600
    assert [status(url, file.read_text()), status(url, "wrong")] == [200, 401]
    refused = cli("hub", "ls", "--url", url)
    assert (refused.code, refused.stdout) == (1, "")
    assert "TENSORHUB_TOKEN" in refused.stderr
    assert cli("hub", "ls", "--url", url, TENSORHUB_TOKEN=file.read_text()).code == 0
    hub.stop()
    chosen = start_hub("--host", "0.0.0.0", TENSORHUB_TOKEN="my-own-token")
    url = chosen.url.replace("0.0.0.0", "127.0.0.1")
    assert [status(url, "my-own-token"), status(url, "other")] == [200, 401]
    assert "my-own-token" not in chosen.transcript


@pytest.mark.claims("hub.stop")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(start_hub: Callable[..., Hub], number: int) -> None:
    hub = start_hub()
    assert hub.stop(number) == 0
    assert hub.transcript.endswith("gen-worker hub: stopped\n")
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(hub.url, timeout=60)


@pytest.mark.claims("hub.taken")
def test_an_address_or_folder_that_cannot_be_used_is_one_line(cli: Cli) -> None:
    (cli.folder / "file").write_text("mine")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words in (
            ("--port", port),
            ("--host", "no such host", "--port", "0"),
            ("--dir", "file", "--port", "0"),
        ):
            done = cli("hub", "serve", *words)
            assert (done.code, done.stdout) == (2, "")
            assert re.fullmatch(r"gen-worker hub: .*\n", done.stderr)
    assert (cli.folder / "file").read_text() == "mine"


@pytest.mark.claims("hub.address")
def test_a_hub_that_does_not_answer_is_one_line(cli: Cli) -> None:
    with socket.socket() as silent:  # bound, so that nobody else takes the port
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        done = cli("hub", "ls", "--url", f"http://127.0.0.1:{port}")
    assert (done.code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f"127.0.0.1:{port} did not answer" in done.stderr


@pytest.mark.claims("hub.usage")
@pytest.mark.parametrize(
    "words",
    [
        ("push", "folder"),
        ("push", "nowhere", "acme/model"),
        ("push", ".", f"acme/model@blake3:{'0' * 64}"),
        ("pull",),
        ("ls", "a", "b"),
        ("gc", "--url", "http://127.0.0.1:1"),
        ("serve", "word"),
        ("ls", "--url", "ftp://somewhere"),
    ],
)
def test_what_cannot_be_meant_is_one_line(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli("hub", *words, TENSORHUB_URL="http://127.0.0.1:1")
    assert (done.code, done.stdout) == (2, "")
    assert re.fullmatch(r"gen-worker hub: .*\n", done.stderr)


def all_shown(screen: int) -> Iterator[bytes]:
    """Yield what a terminal shows until its other end is closed."""
    with contextlib.suppress(OSError):
        while data := os.read(screen, 65536):
            yield data


@pytest.mark.claims("hub.output")
def test_at_a_terminal_there_are_lines_of_text(
    cli: Cli, act: Callable[..., Finished], hub: Hub
) -> None:
    act("push", write(cli.folder / "one", a="1"), "acme/model#bf16")
    (listed,) = act("ls", "--json").values
    screen, other = pty.openpty()
    command = [sys.executable, "-m", "gen_worker.cli", "hub", "ls", "--url", hub.url]
    subprocess.run(command, env=cli.environment, stdout=other, check=True, timeout=30)
    os.close(other)
    shown = b"".join(all_shown(screen)).decode()
    os.close(screen)
    assert re.search(r"acme/model\r\n  :latest +\*#bf16 +1 B  blake3:[0-9a-f]{12}…", shown)
    assert isinstance(listed, list)
