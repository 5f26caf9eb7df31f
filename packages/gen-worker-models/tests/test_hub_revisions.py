"""Publications: idempotent, atomic, checked; and the client that polls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from blake3 import blake3

from gen_worker.errors import ArtifactTransferError, AuthError, ValidationError
from gen_worker.models.hub import (
    Clock,
    FileEntry,
    HubClient,
    HubRequestError,
    Lineage,
    publish_folder,
)
from gen_worker.models.hub.wire import FlavorPublication
from gen_worker.models.refs import TensorhubRef

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import RunningHub
    from gen_worker.cancel import CancelToken

REF = TensorhubRef(owner="acme", repo="model")


def flavor(*entries: FileEntry, name: str = "a", **more: Any) -> FlavorPublication:
    facts: dict[str, Any] = {"flavors": (name,), "lineage": ()} | more
    return FlavorPublication(snapshot_manifest=entries, flavor=name, **facts)


def entry(path: str = "w", data: bytes = b"data", **changed: Any) -> FileEntry:
    facts = {"digest": f"blake3:{blake3(data).hexdigest()}", "size_bytes": len(data), **changed}
    return FileEntry(path=path, **facts)


class VirtualTime:
    """A clock whose waits take no time and are remembered."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def clock(self) -> Clock:
        return Clock(now=lambda: self.now, sleep=self._sleep, random=lambda: 0.5)

    def _sleep(self, seconds: float, token: CancelToken | None) -> None:
        self.waits.append(seconds)
        self.now += seconds
        if token is not None:
            token.raise_if_canceled()


def scripted(*answers: httpx.Response | Exception, asked: list[httpx.Request]) -> Any:
    """Return a transport that gives these answers in turn, the last one for ever."""
    left = list(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)

    return httpx.MockTransport(handle)


def published(client: HubClient, tmp_path: Path, data: bytes = b"data") -> Any:
    (tmp_path / "w").write_bytes(data)
    revision = client.open_revision("acme", "model")
    revision.upload(tmp_path / "w", "w")
    return revision


def test_the_same_finalize_again_is_the_same_publication(hub: RunningHub, tmp_path: Path) -> None:
    with hub.client() as client:
        revision = published(client, tmp_path)
        first = revision.finalize([flavor(entry())], tags=["Prod"])
        assert revision.finalize([flavor(entry())], tags=["prod"]) == first
        with pytest.raises(HubRequestError) as other:
            revision.finalize([flavor(entry("other"))])
        revision.abort()
        assert revision.state()["state"] == "finalized"
        assert client.resolve(REF).revision_seq == 1
    assert other.value.code == "revision_finalized"


def test_a_hub_that_takes_its_time_is_polled(
    serve_hub: Callable[..., RunningHub], tmp_path: Path
) -> None:
    hub = serve_hub(finalizes_later=True)
    with hub.client() as client:
        done = publish_folder(client, tmp_path_with(tmp_path, b"data"), "acme/model")
        assert client.resolve(REF).snapshot.checkpoint_id == done.checkpoint_ids[0]


def tmp_path_with(tmp_path: Path, data: bytes) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    (folder / "w").write_bytes(data)
    return folder


def test_an_aborted_or_failed_block_publishes_nothing(hub: RunningHub, tmp_path: Path) -> None:
    with hub.client() as client:
        with pytest.raises(ZeroDivisionError), client.open_revision("acme", "model") as revision:
            raise ZeroDivisionError
        assert revision.state()["state"] == "aborted"
        with pytest.raises(HubRequestError) as late:
            revision.upload(tmp_path_with(tmp_path, b"x") / "w", "w")
        assert client.repos() == []
    assert late.value.code == "revision_not_open"


def test_an_expired_revision_takes_nothing(
    serve_hub: Callable[..., RunningHub], tmp_path: Path
) -> None:
    moment = 1_000_000_000.0
    hub = serve_hub(revision_ttl_s=60, now=lambda: moment)
    with hub.client() as client:
        revision = client.open_revision("acme", "model")
        moment += 61
        with pytest.raises(HubRequestError) as late:
            revision.upload(tmp_path_with(tmp_path, b"x") / "w", "w")
    assert late.value.code == "revision_expired"


HOSTILE = [
    "../x",
    "/etc/passwd",
    "C:\\x",
    "a\\b",
    "nul",
    "a/../../b",
    "x\0y",
    "a/./../..",
    "\u202e",
]


def test_manifests_are_checked_and_every_mistake_is_told(
    module_hub: RunningHub, tmp_path: Path
) -> None:
    bad = [flavor(entry(path), name=f"f{index}") for index, path in enumerate(HOSTILE)] + [
        flavor(entry(size_bytes=-1), name="negative"),
        flavor(entry(digest="blake3:zz"), name="digest"),
        flavor(entry("A"), entry("a"), name="clash"),
        flavor(entry("a"), entry("a/b"), name="nested"),
        flavor(name="empty"),
        flavor(entry(), name="Not A Name"),
        flavor(entry(), name="twice"),
        flavor(entry(), name="twice"),
        flavor(entry(), name="kind", lineage=(_edge("friend"),)),
        flavor(entry(), name="quantized", lineage=(_edge("quantization"),)),
        flavor(entry(), name="hidden", metadata={"_secret": 1}),
    ]
    with module_hub.client() as client:
        revision = published(client, tmp_path)
        with pytest.raises(HubRequestError) as refused:
            revision.finalize(bad)
        answer = client.connection.call(
            "POST",
            f"/api/v1/repos/acme/model/revisions/{revision.revision_id}/finalize",
            phase="finalize",
            body={"checkpoint_flavors": bad, "tags": [{"tag": "latest"}, {"tag": "???"}]},
        )
        assert revision.state()["state"] == "open"
        assert revision.finalize([flavor(entry(), name="ok")])
    assert (refused.value.status_code, refused.value.code) == (422, "invalid_manifest")
    assert len(answer.data["problems"]) == len(bad) + 3  # one twin less; two tags, two parents


def _edge(kind: str) -> Lineage:
    return Lineage(parent_repo="a/b", parent_checkpoint_id="", relationship_kind=kind)


def test_a_client_of_0_5_publishes_in_its_own_words(hub: RunningHub, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"data")
    with hub.client() as client:
        sent = client.upload_media(str(tmp_path / "w"), "w", owner="acme")
        sessions = "/api/v1/repos/acme/model/upload-sessions"
        opened = client.connection.ask("POST", sessions, phase="create", body={"job_id": "j"})
        body = {
            "tag_groups": [{"tag": "prod", "default_checkpoint_id": "x", "default_flavor": "bf16"}],
            "merge_with_existing": True,
            "release_visibility": "private",
            "checkpoint_flavors": [
                {
                    "snapshot_manifest": {
                        "entries": [{"path": "w", "blake3": sent.blake3, "size_bytes": 4}]
                    },
                    "flavor": "bf16",
                    "attributes": {"size_facts": {"schema_version": 1}},
                }
            ],
        }
        path = f"{sessions}/{opened.data['session_id']}/finalize"
        client.connection.ask("POST", path, phase="finalize", body=body)
        found = client.connection.ask(
            "POST", "/api/v1/repos/acme/model/resolve", phase="resolve", body={"tag": "prod"}
        )
    assert found.data["flavor"] == "bf16"
    assert found.data["metadata"] == {"size_facts": {"schema_version": 1}}


def test_files_must_have_been_uploaded_and_have_their_size(
    module_hub: RunningHub, tmp_path: Path
) -> None:
    with module_hub.client() as client:
        revision = published(client, tmp_path)
        with pytest.raises(HubRequestError) as missing:
            revision.finalize([flavor(entry(data=b"never sent"))])
        with pytest.raises(HubRequestError) as wrong:
            revision.finalize([flavor(entry(size_bytes=5))])
    assert (missing.value.status_code, missing.value.code) == (409, "blob_missing")
    assert (wrong.value.status_code, wrong.value.code) == (422, "invalid_manifest")


def test_unknown_parents_are_fine_only_if_told_so(module_hub: RunningHub, tmp_path: Path) -> None:
    edge = Lineage(
        parent_repo="far/away",
        parent_checkpoint_id="blake3:1",
        relationship_kind="quantization",
        metadata={"quantization_method": "nf4", "quantization_library": "bitsandbytes"},
    )
    with module_hub.client() as client:
        revision = published(client, tmp_path)
        with pytest.raises(HubRequestError, match="far/away"):
            revision.finalize([flavor(entry(), lineage=(edge,))], auto_create_external_parent=False)
        revision.finalize([flavor(entry(), name="nf4", lineage=(edge,))])
        reply = client.connection.ask(
            "POST",
            "/api/v1/repos/acme/model/resolve",
            phase="resolve",
            body={"tag": "latest", "flavor": "nf4"},
        )
        unsuited = client.connection.call(
            "POST",
            "/api/v1/repos/acme/model/resolve",
            phase="resolve",
            body={"tag": "latest", "flavor": "nf4", "capabilities": {"installed_libs": []}},
        )
    assert reply.data["lineage"][0]["parent_repo"] == "far/away"
    assert (unsuited.status, unsuited.data["debug"]["missing_libs"]) == (409, ["bitsandbytes"])


def test_what_there_is_to_publish_is_checked_here_first() -> None:
    asked: list[httpx.Request] = []
    answers = (httpx.Response(200, json={"session_id": "s"}),)
    with HubClient("http://hub", transport=scripted(*answers, asked=asked)) as client:
        revision = client.open_revision("acme", "model")
        with pytest.raises(ValidationError, match="nothing to publish"):
            revision.finalize([])
        with pytest.raises(ValidationError, match="moves by itself"):
            revision.finalize([flavor(entry())], tags=["latest"])
    assert len(asked) == 1


# -- against hubs that behave badly ----------------------------------------------------------------

OPENED = httpx.Response(200, json={"session_id": "s", "expires_at": "x"})
DONE = {"checkpoints": [{"checkpoint_id": "blake3:1"}]}


def finalized(*answers: httpx.Response | Exception) -> tuple[Any, list[str], VirtualTime]:
    """Finalize against these answers; return the outcome, what was asked, and the waits."""
    asked: list[httpx.Request] = []
    virtual = VirtualTime()
    transport = scripted(OPENED, *answers, asked=asked)
    with HubClient("http://hub", transport=transport, clock=virtual.clock()) as client:
        revision = client.open_revision("acme", "model")
        try:
            outcome: Any = revision.finalize([flavor(entry())])
        except (ArtifactTransferError, AuthError) as error:
            outcome = error
    return outcome, [f"{r.method} {r.url.raw_path.decode()}" for r in asked[1:]], virtual


def test_the_body_of_a_finalize_is_as_reference_hubs_expect_it() -> None:
    asked: list[httpx.Request] = []
    transport = scripted(OPENED, httpx.Response(200, json=DONE), asked=asked)
    with HubClient("http://hub/", "t", owner="o", transport=transport) as client:
        revision = client.open_revision("a b", "model", kind="", job_id="j")
        revision.finalize([flavor(entry(), dtype="bf16")], tags=["B", "a"])
    assert msgspec.json.decode(asked[0].content) == {"job_id": "j"}
    assert asked[1].url.raw_path == b"/api/v1/repos/a%20b/model/revisions/s/finalize"
    assert asked[1].headers["authorization"] == "Bearer t"
    assert asked[1].headers["x-cozy-owner"] == "o"
    assert msgspec.json.decode(asked[1].content) == {
        "tags": [{"tag": "a", "default_flavor": "a"}, {"tag": "b", "default_flavor": "a"}],
        "checkpoint_flavors": [
            {
                "snapshot_manifest": [msgspec.to_builtins(entry())],
                "flavor": "a",
                "flavors": ["a"],
                "lineage": [],
                "dtype": "bf16",
            }
        ],
        "auto_create_external_parent": True,
    }


def test_a_slow_publication_is_polled_where_the_hub_says() -> None:
    outcome, asked, virtual = finalized(
        httpx.Response(202, headers={"location": "https://elsewhere/poll/here?x=1"}),
        httpx.Response(200, json={"state": "open"}),
        httpx.Response(503),
        httpx.Response(200, json={"state": "open", "retry_after_seconds": 7}),
        httpx.Response(200, json={"finalize_status": "succeeded", "finalize_result": DONE}),
    )
    assert outcome == ("blake3:1",)
    assert asked[1:] == ["GET /poll/here?x=1"] * 4
    assert [round(wait, 3) for wait in virtual.waits] == [1.05, 1.68, 2.685, 7.125]


def test_a_publication_that_fails_says_why() -> None:
    outcome, asked, _ = finalized(
        httpx.Response(202),
        httpx.Response(200, json={"state": "failed", "finalize_error": {"message": "too bad"}}),
    )
    assert isinstance(outcome, ArtifactTransferError)
    assert "too bad" in str(outcome)
    assert asked[1] == "GET /api/v1/repos/acme/model/revisions/s"


def test_a_finalize_is_sent_again_until_the_hub_has_recovered() -> None:
    outcome, asked, _ = finalized(
        httpx.ConnectError("refused"),
        httpx.Response(500),
        httpx.Response(200, json=DONE),
    )
    assert outcome == ("blake3:1",)
    assert len(asked) == 3


def test_it_is_given_up_after_half_an_hour() -> None:
    outcome, _, virtual = finalized(httpx.Response(500))
    assert isinstance(outcome, HubRequestError)
    assert outcome.status_code == 500
    assert 29 * 60 < virtual.now <= 30 * 60


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(401), AuthError),
        (httpx.Response(403, json={"error": {"code": "no", "message": "never"}}), AuthError),
        (httpx.Response(400, json={"error": "bad", "message": "why"}), HubRequestError),
        (httpx.Response(200, content=b"<html>"), HubRequestError),
        (httpx.Response(200, json={"checkpoints": []}), ArtifactTransferError),
        (httpx.Response(200, json=[]), HubRequestError),
    ],
)
def test_other_answers_end_it(answer: httpx.Response, kind: type[Exception]) -> None:
    outcome, asked, _ = finalized(answer)
    assert isinstance(outcome, kind)
    assert len(asked) == 1
