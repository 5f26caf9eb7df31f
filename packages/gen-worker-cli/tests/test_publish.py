"""`--allow-publish`: jobs of this machine publish to a real hub, or fail and publish nothing."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from gen_worker.models.hub import HubClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Cli, Finished, Hub, Server

PROJECT = """
import msgspec
from gen_worker import DestinationRepo, RequestContext, inference_function
from gen_worker.conversion import (
    ConversionContext, DatasetContext, ProducedFlavor, Source, training_function
)

class In(msgspec.Struct):
    destination: DestinationRepo
    name: str = "model.safetensors"

class Out(msgspec.Struct):
    ok: bool
    digest: str

@inference_function
def by_itself(ctx: RequestContext, payload: In) -> Out:
    stored = ctx.save_checkpoint_bytes(payload.name, b"weights")
    answer = ctx.publish_repo_revision(
        destination_repo=payload.destination.ref, destination_repo_tags=payload.destination.tags
    )
    return Out(answer["ok"], stored.blob_digest or "")

@training_function(kind="format-conversion")
def convert(ctx: ConversionContext, source: Source) -> list[ProducedFlavor]:
    root = ctx.mktemp() / "out"
    root.mkdir()
    for path in source.path.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    return [ProducedFlavor(root, flavor="bf16")]

@training_function(kind="dataset-generation")
def rows(ctx: DatasetContext, text: str = "a") -> list[ProducedFlavor]:
    root = ctx.mktemp() / "rows"
    root.mkdir()
    (root / "dataset_info.json").write_text('{"features": {"text": "string"}, "kind": "prompts"}')
    (root / "rows.jsonl").write_text(text)
    return [ProducedFlavor(root)]
"""
TOKEN = "right"


class Jobs:
    """Runs jobs of a project beside a hub that asks for a token."""

    def __init__(self, cli: Cli, hub: Hub) -> None:
        self.cli = cli
        self.hub = hub
        self.project = cli.write_project(PROJECT)
        (cli.folder / "model").mkdir()
        (cli.folder / "model" / "model.safetensors").write_bytes(b"weights")

    def __call__(self, function: str, *words: str, **payload: Any) -> Finished:
        return self.run(function, *words, payload=payload)

    def run(
        self, function: str, *words: str, payload: dict[str, Any], url: str = "", token: str = TOKEN
    ) -> Finished:
        if function == "convert":
            payload = {"source": {"ref": "./model"}, **payload}
        return self.cli(
            *("run", function, "--payload", json.dumps(payload), "--raw", *words),
            project=self.project,
            TENSORHUB_PUBLIC_URL=url or self.hub.url,
            TENSORHUB_TOKEN=token,
        )

    def tree(self, name: str, tag: str = "latest") -> list[str]:
        with self.client() as client:
            return sorted(entry["path"] for entry in client.tree("acme", name, tag=tag))

    def client(self) -> HubClient:
        return HubClient(self.hub.url, TOKEN)


@pytest.fixture(scope="module")
def jobs(beside_hub: tuple[Cli, Hub]) -> Jobs:
    return Jobs(*beside_hub)


def kinds(done: Finished) -> list[object]:
    return [line["kind"] for line in done.reports if "kind" in line]


@pytest.mark.claims("run.publish")
def test_what_a_conversion_returns_is_published(jobs: Jobs) -> None:
    destination = {"ref": "acme/made", "tags": ["prod"]}
    done = jobs("convert", "--allow-publish", destination=destination)

    assert done.code == 0, done.stderr
    assert jobs.tree("made", "prod") == jobs.tree("made") == ["model.safetensors"]
    assert kinds(done) == ["publish_repo_revision.plan", "publish_repo_revision.published"]
    plan: Any = next(line for line in done.reports if line.get("kind") == kinds(done)[0])
    assert plan["hub"] == jobs.hub.url
    assert plan["will_publish"]["destination_repo_tags"] == ["prod"]
    assert len(plan["will_publish"]["files"]) == 1
    answer = json.loads(done.stdout)["published"]
    assert answer["ok"]
    assert len(answer["checkpoint_ids"]) == 1
    assert TOKEN not in done.stderr


@pytest.mark.claims("run.publish")
def test_a_function_publishes_what_it_stored(jobs: Jobs) -> None:
    done = jobs("by_itself", "--allow-publish", destination={"ref": "acme/mine", "tags": ["v1"]})

    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["digest"].startswith("blake3:")
    assert jobs.tree("mine", "v1") == ["model.safetensors"]


@pytest.mark.claims("run.publish")
def test_a_dataset_is_published_twice_and_keeps_both(jobs: Jobs) -> None:
    for text in ("a", "b"):
        done = jobs("rows", "--allow-publish", destination={"ref": "acme/rows"}, text=text)
        assert done.code == 0, done.stderr
        assert kinds(done) == [
            "publish_dataset_revision.plan",
            "publish_dataset_revision.published",
        ]
    key = "__cozy_snapshot_manifest__"
    with jobs.client() as client:
        now, first = (client.find_dataset("acme", "rows", revision=one) for one in ("", "1"))
    assert now is not None
    assert first is not None
    assert [file["path"] for file in now["schema"][key]] == ["dataset_info.json", "rows.jsonl"]
    assert now["schema"][key] != first["schema"][key]


@pytest.mark.claims("run.publish")
def test_without_the_flag_nothing_reaches_a_hub(jobs: Jobs) -> None:
    done = jobs("rows", "destination.ref=acme/none", "text=b")

    assert done.code == 0, done.stderr
    assert kinds(done) == ["publish_dataset_revision.stubbed"]
    with jobs.client() as client:
        assert client.find_dataset("acme", "none") is None


@pytest.mark.claims("run.publish", "exit.1")
@pytest.mark.parametrize("function", ["convert", "rows"])
def test_a_wrong_token_is_told_and_nothing_is_visible(jobs: Jobs, function: str) -> None:
    payload = {"destination": {"ref": "acme/none"}}
    done = jobs.run(function, "--allow-publish", payload=payload, token="wrong")

    assert (done.code, done.stdout) == (1, "")
    assert "refuses the token" in done.stderr
    with jobs.client() as client:
        assert client.find_dataset("acme", "none") is None
        assert not client.repo_exists("acme", "none")


@pytest.mark.claims("run.publish", "exit.1")
def test_a_hub_that_is_not_there_fails_the_job(jobs: Jobs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    payload = {"destination": {"ref": "acme/none"}}
    done = jobs.run("convert", "--allow-publish", payload=payload, url=url)
    assert (done.code, done.stdout) == (1, "")
    assert "did not answer" in done.stderr


@pytest.mark.claims("run.publish", "exit.2")
def test_publishing_needs_the_network(jobs: Jobs) -> None:
    done = jobs("rows", "--allow-publish", "--offline", destination={"ref": "acme/none"})
    assert (done.code, done.stdout) == (2, "")
    assert "--offline" in done.stderr


@pytest.mark.claims("serve.publish")
def test_a_server_publishes_too(jobs: Jobs, serve: Callable[..., Server]) -> None:
    server = serve(
        *("--allow-publish", "--http", "127.0.0.1:0"),
        project=jobs.project,
        TENSORHUB_URL=jobs.hub.url,
        TENSORHUB_TOKEN=TOKEN,
    )
    sidecar = json.loads((jobs.project / ".gen-worker.http.json").read_text())
    answer = httpx.post(
        f"{sidecar['url']}/v1/request/by_itself",
        json={"destination": {"ref": "acme/served"}},
        timeout=60,
    )
    assert answer.json()["success"], answer.text
    assert jobs.tree("served") == ["model.safetensors"]
    assert server.stop() == 0, server.transcript
