"""`gen-worker models`: what is on this machine, and how it goes away or is proven whole."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Cli, Finished, Hub, Terminal

PROJECT = """
import msgspec
from gen_worker import Repo, RequestContext, inference_function

class In(msgspec.Struct):
    text: str = ""

@inference_function(models={"a": Repo("acme/one"), "b": Repo("acme/two")})
def paint(ctx: RequestContext, a, b, payload: In) -> In:
    return payload
"""
COMMIT = "c" * 40


def write_huggingface(home: Path) -> Path:
    """Write a cache with one model, as the tools of Hugging Face do; return its blob."""
    folder = home / "hub" / "models--acme--Words"
    content = b"words of another tool"
    blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
    snapshot = folder / "snapshots" / COMMIT
    for directory in (blob.parent, snapshot, folder / "refs"):
        directory.mkdir(parents=True)
    blob.write_bytes(content)
    (snapshot / "model.safetensors").symlink_to(os.path.relpath(blob, snapshot))
    (folder / "refs" / "main").write_text(COMMIT)
    return blob


@pytest.fixture
def hub(start_hub: Callable[..., Hub]) -> Hub:
    return start_hub()


@pytest.fixture
def fetched(cli: Cli, hub: Hub) -> Callable[..., Finished]:
    """Fetch two models that share a file; return what runs `models` here."""
    environment = {
        "TENSORHUB_CAS_DIR": str(cli.folder / "cas"),
        "HF_HOME": str(cli.folder / "hf"),
        "TENSORHUB_URL": hub.url,
    }
    for name, size in (("one", 1000), ("two", 3000)):
        folder = cli.folder / name
        folder.mkdir()
        (folder / "weights").write_text(name[0] * size)
        (folder / "shared").write_text("x" * 100)
        assert cli("hub", "push", str(folder), f"acme/{name}", **environment).code == 0
    assert cli("prefetch", project=cli.write_project(PROJECT), **environment).code == 0

    def run(*words: str) -> Finished:
        return cli("models", *words, **environment)

    return run


def listed(done: Finished) -> dict[str, dict[str, Any]]:
    rows: list[Any] = done.values
    return {row["names"][0]: row for row in rows}


@pytest.mark.claims("models.ls", "models.output")
def test_models_of_every_provider_are_listed(cli: Cli, fetched: Callable[..., Finished]) -> None:
    write_huggingface(cli.folder / "hf")
    done = fetched("ls")
    rows = listed(done)
    assert (done.code, done.stderr) == (0, "")
    assert set(rows) == {"acme/one:prod", "acme/two:prod", "hf:acme/Words"}
    one, words = rows["acme/one:prod"], rows["hf:acme/Words"]
    assert (one["provider"], one["files"], one["size_bytes"]) == ("tensorhub", 2, 1100)
    assert os.path.isfile(f"{one['path']}/weights")
    assert (one["used_by"], one["is_pinned"], one["is_damaged"]) == ([], False, False)
    assert (words["digest"], words["size_bytes"]) == (COMMIT, 21)
    assert list(listed(fetched("ls", "WORDS"))) == ["hf:acme/Words"]


@pytest.mark.claims("models.rm")
def test_models_are_removed_by_ref_and_by_digest(
    cli: Cli, fetched: Callable[..., Finished]
) -> None:
    blob = write_huggingface(cli.folder / "hf")
    two = listed(fetched("ls"))["acme/two:prod"]
    (removed,) = fetched("rm", "acme/one").values
    assert isinstance(removed, dict)
    assert removed["freed_bytes"] == 1000  # the other one needs what they share
    gone: list[Any] = fetched("rm", two["digest"][:12], "hf:acme/Words").values
    assert [row["freed_bytes"] for row in gone] == [3100, 21]
    assert not blob.exists()
    assert fetched("ls").values == []
    missing = fetched("rm", "acme/one")
    assert (missing.code, missing.stdout) == (3, "")
    assert "'acme/one' is not on this machine" in missing.stderr


@pytest.mark.claims("models.rm")
def test_what_a_process_uses_stays(cli: Cli, fetched: Callable[..., Finished]) -> None:
    from gen_worker.models.store import ContentStore

    one = listed(fetched("ls"))["acme/one:prod"]
    with ContentStore(str(cli.folder / "cas")).lease(one["digest"]):
        refused = fetched("rm", "acme/one")
        assert listed(fetched("ls"))["acme/one:prod"]["used_by"]
    assert refused.code == 1
    assert re.search(rf"in use by process {os.getpid()} on ", refused.stderr)
    assert fetched("rm", "acme/one").code == 0


def spoil(path: str) -> None:
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.write(b"?")


@pytest.mark.claims("models.verify")
def test_damage_is_found_and_fetched_again(
    cli: Cli, fetched: Callable[..., Finished], hub: Hub
) -> None:
    blob = write_huggingface(cli.folder / "hf")
    assert fetched("verify").values == [{"checked": 3, "whole": 3, "damaged_files": 0}]
    one = listed(fetched("ls"))["acme/one:prod"]
    spoil(f"{one['path']}/weights")
    spoil(str(blob))
    done = fetched("verify", "--repair")
    lines: list[Any] = done.values
    assert done.code == 1  # nobody serves the one of Hugging Face here
    damaged = {line["model"]: line["path"] for line in lines if "damaged" in line}
    assert set(damaged) == {"acme/one:prod", "hf:acme/Words"}
    assert damaged["hf:acme/Words"] == str(blob)
    repaired = {line["model"]: line["repaired"] for line in lines if "repaired" in line}
    assert repaired == {"acme/one:prod": True, "hf:acme/Words": False}
    with open(f"{one['path']}/weights") as file:
        assert file.read() == "o" * 1000

    spoil(f"{one['path']}/weights")
    hub.stop()
    done = fetched("verify", "acme/one")
    assert done.code == 1
    assert listed(fetched("ls"))["acme/one:prod"]["is_damaged"]


@pytest.mark.claims("models.du")
def test_shared_bytes_count_once(cli: Cli, fetched: Callable[..., Finished]) -> None:
    partial = cli.folder / "cas" / "blobs" / "blake3" / "aa" / "bb" / f"aabb{'0' * 60}.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"p" * 5000)
    lines: list[Any] = fetched("du").values
    *models, summary = lines
    assert {model["names"][0]: model["own_bytes"] for model in models} == {
        "acme/one:prod": 1000,
        "acme/two:prod": 3000,
    }
    assert (summary["total_bytes"], summary["shared_bytes"]) == (4100, 100)
    assert summary["partial_bytes"] >= 5000
    assert summary["collectable_bytes"] == summary["partial_bytes"]
    assert summary["free_bytes"] > 0


@pytest.mark.claims("models.output")
def test_at_a_terminal_there_is_a_table(
    terminal: Terminal, shelve: Callable[..., tuple[str, str]]
) -> None:
    digest, _ = shelve(notes="n" * 2048)
    environment = {"TENSORHUB_CAS_DIR": str(terminal.folder / "cas")}
    terminal.start("models", "ls", environment=environment)
    terminal.expect(f"{digest[:12]}  2.0 KiB  now  -")
    assert terminal.wait() == 0


@pytest.mark.claims("models.usage")
@pytest.mark.parametrize(
    "words",
    [("rm",), ("du", "word"), ("ls", "a", "b"), ("ls", "--repair"), ("rm", "no-ref"), ("go",)],
)
def test_what_cannot_be_meant_is_exit_2(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli("models", *words)
    assert (done.code, done.stdout) == (2, "")
    assert "gen-worker models: " in done.stderr
