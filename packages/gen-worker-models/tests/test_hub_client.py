"""What the client asks, and what it makes of the answers of other hubs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from gen_worker.cancel import CancelToken
from gen_worker.errors import ArtifactTransferError, AuthError, CanceledError, ValidationError
from gen_worker.models.hub import (
    Clock,
    HubClient,
    HubUnreachableError,
    IngestTimeoutError,
    MalformedAnswerError,
    NoCompatibleArtifactError,
    PublicModelError,
    RepoNotFoundError,
    TransferGrant,
)
from gen_worker.models.hub.wire import preferred_dtypes
from gen_worker.models.refs import TensorhubRef

if TYPE_CHECKING:
    from collections.abc import Callable

HEX = "ab" * 32
REF = TensorhubRef(owner="acme", repo="model", tag="v1", flavor="bf16")
ENTRY = {"path": "a/b", "size_bytes": 3, "digest": f"blake3:{HEX}", "url": "https://x/y"}
RESOLVED = {"checkpoint_id": f"blake3:{HEX}", "snapshot_manifest": {"entries": [ENTRY]}}


class Hub:
    """Gives its answers in turn, the last one for ever, and remembers the questions."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.asked: list[httpx.Request] = []
        self.waits: list[float] = []
        self.now = 0.0

    def client(self, token: str = "secret") -> HubClient:
        clock = Clock(now=lambda: self.now, sleep=self._sleep, random=lambda: 1.0)
        transport = httpx.MockTransport(self._handle)
        return HubClient("http://hub/", token, clock=clock, transport=transport)

    @property
    def bodies(self) -> list[Any]:
        return [msgspec.json.decode(request.content) for request in self.asked]

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        status, body = answer
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return httpx.Response(status, content=content)

    def _sleep(self, seconds: float, token: CancelToken | None) -> None:
        self.waits.append(seconds)
        self.now += seconds
        if token is not None:
            token.raise_if_canceled()


def resolve(hub: Hub, ref: TensorhubRef = REF, **options: Any) -> Any:
    with hub.client() as client:
        return client.resolve(ref, **options)


PINNED = TensorhubRef(owner="acme", repo="model", digest=f"blake3:{HEX}")


@pytest.mark.parametrize(
    ("ref", "attributes", "body"),
    [
        (REF, None, {"tag": "v1", "flavor": "bf16"}),
        (TensorhubRef(owner="acme", repo="model"), {}, {"tag": "prod"}),
        (PINNED, {"dtype": ("fp8",)}, {"digest": f"blake3:{HEX}"}),
        (
            REF,
            {"dtype": ("fp8", "bf16"), "file_type": (), "file_layout": ("diffusers",)},
            {
                "tag": "",
                "attributes": {"dtype": "fp8", "file_layout": "diffusers"},
                "flavor": "bf16",
            },
        ),
    ],
)
def test_a_question_has_one_of_three_shapes(ref: Any, attributes: Any, body: Any) -> None:
    hub = Hub((200, RESOLVED))
    resolve(hub, ref, attributes=attributes)
    assert hub.bodies == [body]
    assert hub.asked[0].url.path == "/api/v1/repos/acme/model/resolve"
    assert hub.asked[0].headers["authorization"] == "Bearer secret"


def test_workers_ask_at_their_own_route() -> None:
    hub = Hub((200, RESOLVED))
    resolve(hub, for_inference=True)
    assert hub.asked[0].url.path == "/api/v1/inference/repos/acme/model/resolve"


@pytest.mark.parametrize(
    "answer",
    [
        RESOLVED,
        {"snapshot_digest": HEX, "snapshot_manifest": {"files": [ENTRY], "entries": []}},
        {"checkpoint_id": HEX, "snapshot_manifest": {"files": [{**ENTRY, "blake3": HEX}]}},
        {
            "checkpoint_id": HEX,
            "snapshot_manifest": {
                "entries": [{**ENTRY, "digest": HEX}, {"size_bytes": 1, "url": "no path"}]
            },
        },
    ],
)
def test_every_spelling_of_an_answer_is_read(answer: Any) -> None:
    found = resolve(Hub((200, answer)))
    (file,) = found.snapshot.files
    assert (found.snapshot.digest, file.path, file.size_bytes, file.blake3, file.url) == (
        HEX,
        "a/b",
        3,
        HEX,
        "https://x/y",
    )


def test_the_artifact_and_the_revision_have_other_names_too() -> None:
    more = {"version": 7, "variant": {"label": "l", "dtype": "bf16", "file_type": "safetensors"}}
    found = resolve(Hub((200, RESOLVED | more)))
    assert (found.revision_seq, found.artifact.quantization, found.artifact.label) == (
        7,
        "bf16",
        "l",
    )
    assert (found.tags, found.flavors, found.pipeline_class) == (None, None, None)


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        b"<html>",
        {"checkpoint_id": HEX},
        {"checkpoint_id": HEX, "snapshot_manifest": {"entries": []}},
        {"snapshot_manifest": {"entries": [ENTRY]}},
        {"checkpoint_id": "../..", "snapshot_manifest": {"entries": [ENTRY]}},
        {"checkpoint_id": HEX, "snapshot_manifest": {"entries": [{**ENTRY, "path": "../x"}]}},
    ],
)
def test_answers_of_no_use_are_refused(answer: Any) -> None:
    with pytest.raises(MalformedAnswerError):
        resolve(Hub((200, answer)))


def test_failures_are_typed_and_keep_the_token_secret() -> None:
    error = {"error": {"code": "x", "message": "Bearer secret is wrong"}}
    for answer, kind in (
        ((401, error), AuthError),
        ((403, error), AuthError),
        ((404, {"error": "anything"}), RepoNotFoundError),
        ((409, {"debug": {"why": "no"}}), NoCompatibleArtifactError),
        ((500, b"oops"), ArtifactTransferError),
        (httpx.ConnectError("secret"), HubUnreachableError),
    ):
        with pytest.raises(kind) as raised:
            resolve(Hub(answer))
        assert "secret" not in str(raised.value).replace("TENSORHUB_TOKEN", "")
        assert "secret" not in repr(raised.value)


def test_a_resolve_is_not_repeated() -> None:
    hub = Hub((500, {}))
    with pytest.raises(ArtifactTransferError) as failed:
        resolve(hub)
    assert (len(hub.asked), failed.value.retryable) == (1, True)


def test_an_answer_without_end_is_cut_off() -> None:
    with pytest.raises(ArtifactTransferError, match="more than"):
        resolve(Hub((200, b"x" * (64 * 1024 * 1024 + 1))))


def test_redirects_are_not_followed_with_the_token() -> None:
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(307, headers={"location": "http://elsewhere/"})

    with HubClient("http://hub", "secret", transport=httpx.MockTransport(handle)) as client:
        with pytest.raises(ArtifactTransferError):
            client.resolve(REF)
    assert len(asked) == 1


# -- public models ---------------------------------------------------------------------------------


def request(hub: Hub, **options: Any) -> Any:
    with hub.client() as client:
        return client.request_public("hf:Owner/Repo", **options)


def test_a_public_model_is_asked_for_until_it_is_there() -> None:
    pending = (202, {"ingest_job_id": "job"})
    hub = Hub(*[pending] * 9, (200, RESOLVED))
    told: list[str] = []
    found = request(hub, dtypes=("fp16",), waiting=told.append)
    assert found.snapshot.digest == HEX
    assert (
        hub.bodies
        == [
            {
                "model_ref": "hf:Owner/Repo",
                "constraints": {
                    "dtypes": ["bf16", "fp16"],
                    "file_types": ["safetensors"],
                    "file_layouts": ["diffusers"],
                },
                "include_urls": True,
            }
        ]
        * 10
    )
    assert told == ["job"] * 9
    assert [round(wait - 0.25, 3) for wait in hub.waits] == [
        0.5,
        0.75,
        1.125,
        1.688,
        2.531,
        3.797,
        5.695,
        8.543,
        10.0,
    ]


def test_waiting_ends_after_a_quarter_of_an_hour() -> None:
    hub = Hub((202, {"ingest_job_id": "job-7"}))
    with pytest.raises(IngestTimeoutError, match="job-7") as late:
        request(hub)
    assert late.value.job_id == "job-7"
    assert 14.5 * 60 < hub.now <= 15 * 60 + 1


def test_waiting_ends_with_a_cancel() -> None:
    cancel = CancelToken()
    hub = Hub((202, {"ingest_job_id": "job"}))

    def waiting(_job: str) -> None:
        if len(hub.waits) == 3:
            cancel.cancel()

    with pytest.raises(CanceledError):
        request(hub, cancel=cancel, waiting=waiting)
    assert len(hub.asked) == 4


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((403, {"message": "gated"}), PublicModelError),
        ((401, {}), PublicModelError),
        ((409, {"debug": 1}), NoCompatibleArtifactError),
        ((502, b"gone"), PublicModelError),
        ((200, b"[]"), MalformedAnswerError),
        ((200, b"no"), MalformedAnswerError),
    ],
)
def test_other_answers_to_a_public_request(answer: Any, kind: type[Exception]) -> None:
    hub = Hub(answer)
    with pytest.raises(kind):
        request(hub)
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ((), ["bf16", "fp16"]),
        (("fp16",), ["bf16", "fp16"]),
        (("fp8", "bf16"), ["bf16", "fp8"]),
        (("fp8", "fp8"), ["fp8"]),
    ],
)
def test_bf16_comes_first_where_it_will_do(asked: tuple[str, ...], sent: list[str]) -> None:
    assert preferred_dtypes(asked) == sent


# -- small things ----------------------------------------------------------------------------------


def test_metadata_and_trees_that_are_not_there() -> None:
    with Hub((404, {})).client() as client:
        assert client.metadata("a", "b") == {"exists": False, "metadata": {}}
        assert client.tree("a", "b") == []
        assert client.chunk_hashes(HEX) is None
        assert client.file_facts("x/y") is None
        with pytest.raises(ValidationError):
            client.put_metadata("a", "b", [1])  # type: ignore[arg-type]  # what is checked
    with Hub((200, {"metadata": {"k": 1}})).client() as client:
        assert client.metadata("a", "b") == {"exists": True, "metadata": {"k": 1}}


@pytest.mark.parametrize("url", ["", "hub", "ftp://hub", "http://", "http://h:x"])
def test_what_is_no_url_of_a_hub(url: str) -> None:
    with pytest.raises(ValidationError):
        HubClient(url)


GRANT = {
    "endpoint_url": "http://s3",
    "bucket": "b",
    "key": "k",
    "access_key_id": "id",
    "secret_access_key": "very-secret",
}


@pytest.mark.parametrize(
    "change",
    [
        lambda grant: grant,
        lambda grant: {
            "endpointUrl": "http://s3",
            "bucketName": "b",
            "objectKey": "k",
            "accessKeyId": "id",
            "secretAccessKey": "very-secret",
        },
        lambda grant: {**grant, "bucket": "", "bucket_name": "b", "key": None, "object_key": "k"},
    ],
)
def test_grants_in_every_spelling(change: Callable[[Any], Any]) -> None:
    grant = TransferGrant.from_record(change(GRANT))
    assert msgspec.structs.asdict(grant) == {
        **GRANT,
        "session_token": "",
        "region": "auto",
        "expires_at": "",
    }
    assert "very-secret" not in repr(grant)


@pytest.mark.parametrize("name", list(GRANT))
def test_a_grant_that_lacks_something(name: str) -> None:
    with pytest.raises(ArtifactTransferError) as lacking:
        TransferGrant.from_record({key: value for key, value in GRANT.items() if key != name})
    assert (lacking.value.phase, name in str(lacking.value)) == ("grant", True)
