"""A laptop that may publish: its user's hub is asked, and told of first."""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker import DestinationRepo, RequestContext, inference_function
from gen_worker.context import DatasetContext
from gen_worker.context.local import run_blocking
from gen_worker.events import Failed
from gen_worker.models.hub import HubClient
from gen_worker.runtime import Engine, Invocation
from gen_worker.runtime.files import HubPublisher
from gen_worker.runtime.local import JsonLineEvents, local_ports
from gen_worker.runtime.local.publishing import (
    AnnouncedPublisher,
    PublishedFiles,
    publishing_ports,
)
from gen_worker.spec import specs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Hub
    from gen_worker.cancel import CancelToken


class In(msgspec.Struct):
    destination: DestinationRepo


class Out(msgspec.Struct):
    path: str = ""
    digest: str = ""


BEFORE: list[Callable[[RequestContext], object]] = []
"""What `store` does before it publishes."""


@inference_function
def store(ctx: RequestContext, payload: In) -> Out:
    ctx.set_repo_spec(library_name="ours")
    stored = ctx.save_checkpoint_bytes("model.safetensors", b"weights")
    with ctx.open_checkpoint_stream("more.safetensors") as more:
        more.write(b"mo")
        more.flush()
        more.write(b"re")
    ctx.save_bytes("report.txt", b"for this machine")
    for act in BEFORE:
        act(ctx)
    ctx.publish_repo_revision(destination_repo=payload.destination.ref)
    return Out(str(stored.local_path), str(stored.blob_digest))


class Laptop:
    """One machine whose user has a token, or a wrong one."""

    def __init__(self, folder: Path, hub: Hub, token: str | None = None) -> None:
        self.stderr = io.StringIO()
        self.hub = hub
        own = local_ports(events=JsonLineEvents(self.stderr), output_dir=str(folder))
        self.ports = publishing_ports(
            own,
            url=hub.url,
            token=hub.local.issue_token("admin") if token is None else token,
            find_token=self.find_token,
        )
        self.engine = Engine(specs_of(store), self.ports)

    def find_token(self, request_id: str) -> CancelToken | None:
        return self.engine.token_of(request_id)

    def run(self, repo: str) -> Any:
        payload = msgspec.json.encode({"destination": {"ref": repo}})
        asked = Invocation(function="store", payload=payload, request_id="r", job_id="r")
        outcome = self.engine.run(asked)
        return outcome.failure if isinstance(outcome, Failed) else outcome.value

    def kinds(self) -> list[str]:
        lines = map(json.loads, self.stderr.getvalue().splitlines())
        return [line["kind"] for line in lines if "kind" in line]

    def tree(self, repo: str) -> list[str]:
        with HubClient(self.hub.url, self.hub.local.issue_token("admin")) as client:
            return [entry["path"] for entry in client.tree("acme", repo)]

    def close(self) -> None:
        self.engine.close_now()
        assert isinstance(self.ports.files, PublishedFiles)
        assert len(self.ports.files._hub.requests) == 0  # nothing is kept of calls that ended
        self.ports.files.close()


@pytest.fixture
def make_laptop(tmp_path: Path, hub: Hub) -> Iterator[Callable[..., Laptop]]:
    made: list[Laptop] = []

    def make(token: str | None = None) -> Laptop:
        made.append(Laptop(tmp_path, hub, token))
        return made[-1]

    yield make
    for one in made:
        one.close()
    BEFORE.clear()


def test_what_a_function_stores_for_its_destination_is_here_and_there(
    make_laptop: Callable[..., Laptop], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[dict[str, Any]] = []
    real = HubClient.open_revision

    def open_revision(client: HubClient, *where: str, **facts: Any) -> Any:
        opened.append(facts)
        return real(client, *where, **facts)

    monkeypatch.setattr(HubClient, "open_revision", open_revision)
    laptop = make_laptop()
    files = laptop.ports.files
    assert isinstance(files, PublishedFiles)

    made = laptop.run("acme/here-and-there")

    assert made.digest.startswith("blake3:")
    with open(made.path, "rb") as file:
        assert file.read() == b"weights"
    assert (tmp_path / "jobs" / "r" / "outputs" / "more.safetensors").read_bytes() == b"more"
    assert sorted(laptop.tree("here-and-there")) == ["model.safetensors", "more.safetensors"]
    assert laptop.kinds() == ["publish_repo_revision.plan", "publish_repo_revision.published"]
    assert [facts["library_name"] for facts in opened] == ["ours"]  # one revision, described
    told = AnnouncedPublisher(
        HubPublisher(files._hub), laptop.ports.events, "http://me:hush@127.0.0.1"
    )
    assert "hush" not in told._url


def test_a_wrong_token_fails_the_call(make_laptop: Callable[..., Laptop]) -> None:
    laptop = make_laptop("wrong")
    failure = laptop.run("acme/refused")
    assert (failure.error_type, failure.exit_code, failure.retryable) == ("auth", 1, False)
    assert laptop.kinds() == []
    assert laptop.tree("refused") == []


def test_a_hub_that_asks_for_no_token_is_published_to(
    make_laptop: Callable[..., Laptop], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop = make_laptop("")
    assert laptop.run("acme/open").error_type == "auth"  # the hub is asked
    tokens: Any = hub.local._rooms.tokens
    monkeypatch.setattr(
        tokens,
        "_nobody",
        msgspec.structs.replace(tokens._nobody, scopes=frozenset({"read", "write"})),
    )
    assert laptop.run("acme/open").digest
    assert len(laptop.tree("open")) == 2


def test_a_call_that_fails_leaves_no_revision(make_laptop: Callable[..., Laptop]) -> None:
    def fail(ctx: RequestContext) -> None:
        raise LookupError("half-way")

    BEFORE.append(fail)
    laptop = make_laptop()
    assert "half-way" in laptop.run("acme/broken").detail
    assert laptop.tree("broken") == []


def test_a_canceled_call_publishes_nothing(make_laptop: Callable[..., Laptop]) -> None:
    BEFORE.append(lambda ctx: ctx.cancel())
    laptop = make_laptop()
    assert laptop.run("acme/canceled").error_type == "canceled"
    assert laptop.tree("canceled") == []


def test_repositories_and_datasets_are_those_of_the_hub(
    make_laptop: Callable[..., Laptop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORHUB_CAS_DIR", str(tmp_path / "cas"))
    laptop = make_laptop()
    ctx = DatasetContext("d", ports=laptop.ports, job_id="d")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}")
    revisions = ctx._revisions
    assert revisions is not None
    session = run_blocking(revisions.session("acme/rows", {"target": "dataset"}))
    facts = run_blocking(revisions.put(session, "jobs/d/outputs/rows.jsonl", rows))
    answer = ctx.publish_dataset_revision(
        destination_dataset="acme/rows",
        features_json={"text": "string"},
        snapshot_manifest=[
            {
                "path": "rows.jsonl",
                "digest": f"blake3:{facts['blake3']}",
                "size_bytes": os.stat(rows).st_size,
            }
        ],
    )
    found = ctx.resolve_dataset("acme/rows")
    assert os.listdir(found) == ["rows.jsonl"]
    assert ctx.resolve_dataset(str(tmp_path)) == str(tmp_path)
    run_blocking(ctx.release())
    run_blocking(laptop.ports.files.release("d"))

    assert (answer["ok"], answer["existed"]) == (True, False)
    assert laptop.kinds() == ["publish_dataset_revision.plan", "publish_dataset_revision.published"]
