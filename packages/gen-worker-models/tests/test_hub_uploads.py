"""Uploads: by parts and by grant, resumed, refused when they are not what was announced."""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from blake3 import blake3

from gen_worker.cancel import CancelToken
from gen_worker.errors import (
    ArtifactTransferError,
    CanceledError,
    OutputTooLargeError,
    ValidationError,
)
from gen_worker.models.hub import BudgetExceededError, Clock, HubClient, HubRequestError
from gen_worker.models.hub.grants import s3_client
from gen_worker.models.hub.uploading import FileFacts
from gen_worker.models.hub.wire import TransferGrant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import RunningHub

PART = 64 * 1024


class Wire(httpx.BaseTransport):
    """Passes requests on, remembers them, and changes answers."""

    def __init__(self, change: Callable[[str, dict[str, Any]], None] | None = None) -> None:
        self._inner = httpx.HTTPTransport()
        self._change = change
        self.asked: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path.rpartition('/')[2]}")
        answer = self._inner.handle_request(request)
        if self._change is None or request.method != "POST":
            return answer
        import msgspec

        answer.read()
        try:
            data = msgspec.json.decode(answer.content)
        except msgspec.DecodeError:
            return answer
        self._change(request.url.path, data)
        return httpx.Response(answer.status_code, json=data)

    def close(self) -> None:
        self._inner.close()


def raw(hub: RunningHub) -> httpx.Client:
    """Return a client that speaks plain HTTP and may do everything."""
    token = hub.hub.issue_token("admin")
    return httpx.Client(base_url=hub.url, headers={"authorization": f"Bearer {token}"}, timeout=60)


def begin(http: httpx.Client, data: bytes, **changed: Any) -> tuple[str, dict[str, Any]]:
    """Open a revision and announce a file; return the upload's path and its ticket."""
    base = "/api/v1/repos/acme/model/revisions"
    revision = http.post(base, json={}).json()["session_id"]
    body = {"path": "w", "blake3": blake3(data).hexdigest(), "size_bytes": len(data), **changed}
    answer = http.post(f"{base}/{revision}/uploads", json=body)
    ticket = answer.json()
    return f"{base}/{revision}/uploads/{ticket.get('upload_id')}", ticket


def put_all(ticket: dict[str, Any], data: bytes) -> list[dict[str, Any]]:
    parts = []
    for number, url in enumerate(ticket["part_urls"], start=1):
        answer = httpx.put(url, content=data[(number - 1) * PART : number * PART], timeout=60)
        assert answer.status_code == 200, answer.text
        parts.append({"part_number": number, "etag": answer.headers["etag"]})
    return parts


def test_one_answer_has_urls_and_a_grant(module_hub: RunningHub) -> None:
    with raw(module_hub) as http:
        _, ticket = begin(http, os.urandom(3 * PART + 1))
    assert (ticket["total_parts"], len(ticket["part_urls"]), ticket["part_size"]) == (4, 4, PART)
    grant = TransferGrant.from_record(ticket["transfer_grant"])
    assert (grant.endpoint_url, grant.key, grant.region) == (
        module_hub.url,
        ticket["upload_id"],
        "auto",
    )
    assert grant.secret_access_key not in repr(grant)


def test_parts_may_come_in_any_order_and_twice(module_hub: RunningHub) -> None:
    data = os.urandom(2 * PART + 7)
    with raw(module_hub) as http:
        path, ticket = begin(http, data)
        httpx.put(ticket["part_urls"][2], content=data[2 * PART :], timeout=60)
        parts = put_all(ticket, data)
        done = http.post(f"{path}/complete", json={"parts": parts[::-1]})
        again = http.post(f"{path}/complete", json={"parts": parts})
        late = httpx.put(ticket["part_urls"][0], content=data[:PART], timeout=60)
    assert done.status_code == 200
    assert done.json()["blob_digest"] == f"blake3:{blake3(data).hexdigest()}"
    assert again.json() == done.json()
    assert late.status_code == 409


def test_wrong_bytes_are_refused_and_forgotten(module_hub: RunningHub) -> None:
    data = os.urandom(2 * PART)
    with raw(module_hub) as http:
        path, ticket = begin(http, data)
        parts = put_all(ticket, os.urandom(2 * PART))
        refused = http.post(f"{path}/complete", json={"parts": parts})
        state = http.get(path).json()
        parts = put_all(ticket, data)
        done = http.post(f"{path}/complete", json={"parts": parts})
    assert (refused.status_code, refused.json()["error"]) == (422, "digest_mismatch")
    assert state["parts"] == []
    assert done.status_code == 200


def test_bodies_that_lie_about_their_length_are_refused(module_hub: RunningHub) -> None:
    data = os.urandom(PART + 5)
    with raw(module_hub) as http:
        path, ticket = begin(http, data)
        short = httpx.put(ticket["part_urls"][0], content=data[: PART - 1], timeout=60)
        long = httpx.put(ticket["part_urls"][1], content=data[:6], timeout=60)
        missing = http.post(f"{path}/complete", json={"parts": []})
        unsigned = httpx.put(
            ticket["part_urls"][0].partition("?")[0], content=data[:PART], timeout=60
        )
        other = httpx.put(
            ticket["part_urls"][0].replace("/1?", "/2?"), content=data[PART:], timeout=60
        )
        assert http.get(path).json()["parts"] == []
    assert (short.status_code, short.json()["error"]) == (400, "incomplete_body")
    assert (long.status_code, long.json()["error"]) == (413, "body_too_large")
    assert (missing.status_code, missing.json()["missing_parts"]) == (409, [1, 2])
    assert [unsigned.status_code, other.status_code] == [403, 403]


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"blake3": "zz"}, 400, "invalid_digest"),
        ({"blake3": "../" * 20}, 400, "invalid_digest"),
        ({"size_bytes": -1}, 413, "file_too_large"),
        ({"size_bytes": 2**60}, 413, "file_too_large"),
        ({"size_bytes": "many"}, 400, "invalid_body"),
        ({"path": ""}, 400, "invalid_ref"),
        ({"path": "x" * 2000}, 400, "invalid_ref"),
        ({"size_bytes": 0}, 422, "digest_mismatch"),
    ],
)
def test_announcements_that_cannot_be_are_refused(
    module_hub: RunningHub, changed: dict[str, Any], status: int, code: str
) -> None:
    with raw(module_hub) as http:
        base = "/api/v1/repos/acme/model/revisions"
        revision = http.post(base, json={}).json()["session_id"]
        body = {"path": "w", "blake3": "0" * 64, "size_bytes": 1, **changed}
        answer = http.post(f"{base}/{revision}/uploads", json=body)
    assert (answer.status_code, answer.json()["error"]) == (status, code)


def test_an_aborted_upload_is_gone(module_hub: RunningHub) -> None:
    data = os.urandom(PART + 1)
    with raw(module_hub) as http:
        path, ticket = begin(http, data)
        put_all(ticket, data)
        assert http.delete(path).status_code == 200
        assert http.get(path).status_code == 404
        assert httpx.put(ticket["part_urls"][0], content=data[:PART], timeout=60).status_code == 404


def send(client: HubClient, path: Path, **options: Any) -> Any:
    with client.open_revision("acme", "model", **options) as revision:
        return revision.upload(path, "w")


def test_the_client_sends_only_the_parts_that_are_missing(
    module_hub: RunningHub, tmp_path: Path
) -> None:
    data = os.urandom(4 * PART + 1)
    (tmp_path / "w").write_bytes(data)
    with raw(module_hub) as http:
        _, ticket = begin(http, data)
        put_all({"part_urls": ticket["part_urls"][:3]}, data)
    told: list[dict[str, Any]] = []
    with module_hub.client() as client:
        done = send(client, tmp_path / "w", tell=lambda _kind, payload: told.append(payload))
        again = send(client, tmp_path / "w")
    assert (done.blake3, done.dedup, again.dedup) == (blake3(data).hexdigest(), False, True)
    last = told[-1]
    assert (last["stage"], last["bytes_uploaded"], last["chunks_uploaded"]) == (
        "stream_finalized",
        len(data),
        2,
    )
    assert set(last) == {
        "stage",
        "ref",
        "stream_mode",
        "bytes_written",
        "bytes_uploaded",
        "chunks_written",
        "chunks_uploaded",
        "upload_bps",
        "inst_upload_bps",
        "elapsed_s",
        "finalize_elapsed_s",
    }


def test_a_hub_that_offers_only_a_grant_gets_the_file_by_s3(
    module_hub: RunningHub, tmp_path: Path
) -> None:
    pytest.importorskip("boto3")
    data = os.urandom(3 * PART)
    (tmp_path / "w").write_bytes(data)

    def only_grant(_path: str, answer: dict[str, Any]) -> None:
        for name in ("part_urls", "total_parts", "parts"):
            answer.pop(name, None)
        if "transfer_grant" in answer:
            answer["s3_transfer_grant"] = answer.pop("transfer_grant")

    token = module_hub.hub.issue_token("write")
    with HubClient(module_hub.url, token, transport=Wire(only_grant)) as client:
        done = send(client, tmp_path / "w")
    assert (done.blake3, done.dedup) == (blake3(data).hexdigest(), False)


def test_neither_urls_nor_a_grant_is_an_error_of_the_hub(
    module_hub: RunningHub, tmp_path: Path
) -> None:
    (tmp_path / "w").write_bytes(os.urandom(10))

    def nothing(_path: str, answer: dict[str, Any]) -> None:
        for name in ("part_urls", "total_parts", "parts", "transfer_grant"):
            answer.pop(name, None)

    token = module_hub.hub.issue_token("write")
    with HubClient(module_hub.url, token, transport=Wire(nothing)) as client:
        with pytest.raises(ArtifactTransferError) as none:
            send(client, tmp_path / "w")
    assert none.value.phase == "create"


@pytest.fixture
def grant(module_hub: RunningHub) -> Any:
    pytest.importorskip("boto3")
    data = os.urandom(11 * 1024 * 1024)
    with raw(module_hub) as http:
        path, ticket = begin(http, data)
        yield data, TransferGrant.from_record(ticket["transfer_grant"]), http, path


@pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*")
class TestBoto3:
    """The S3 side as the real library uses it."""

    def test_put_read_and_head(self, grant: Any) -> None:
        data, keys, http, path = grant
        client = s3_client(keys)
        client.put_object(Bucket=keys.bucket, Key=keys.key, Body=data)
        got = client.get_object(Bucket=keys.bucket, Key=keys.key, Range="bytes=5-1000")
        head = client.head_object(Bucket=keys.bucket, Key=keys.key)
        assert got["Body"].read() == data[5:1001]
        assert head["ContentLength"] == len(data)
        done = http.post(f"{path}/complete", json={"transfer": {"mode": "s3_sdk"}})
        assert done.json()["blake3"] == blake3(data).hexdigest()
        client.close()

    def test_a_multipart_upload_can_be_listed_resumed_and_aborted(self, grant: Any) -> None:
        data, keys, http, path = grant
        client = s3_client(keys)
        where = {"Bucket": keys.bucket, "Key": keys.key}
        half = 5 * 1024 * 1024
        given_up = client.create_multipart_upload(**where)["UploadId"]
        client.abort_multipart_upload(**where, UploadId=given_up)
        with pytest.raises(client.exceptions.NoSuchUpload):
            client.list_parts(**where, UploadId=given_up)
        upload = client.create_multipart_upload(**where)["UploadId"]
        first = client.upload_part(**where, UploadId=upload, PartNumber=1, Body=data[:half])
        listed = client.list_parts(**where, UploadId=upload)["Parts"]
        assert [(part["PartNumber"], part["ETag"], part["Size"]) for part in listed] == [
            (1, first["ETag"], half)
        ]
        second = client.upload_part(**where, UploadId=upload, PartNumber=2, Body=data[half:])
        parts = [
            {"PartNumber": number, "ETag": part["ETag"]}
            for number, part in enumerate((first, second), start=1)
        ]
        client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
        done = http.post(f"{path}/complete", json={"transfer": {"mode": "s3_sdk"}})
        assert done.status_code == 200
        client.close()

    def test_the_librarys_own_defaults_work_too(self, grant: Any, tmp_path: Path) -> None:
        """With the checksums and the framing that it adds unless told otherwise."""
        import boto3  # type: ignore[import-untyped,import-not-found,unused-ignore]
        from botocore.config import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
            Config,
        )

        data, keys, http, path = grant
        (tmp_path / "w").write_bytes(data)
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=keys.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=keys.access_key_id,
            aws_secret_access_key=keys.secret_access_key,
            aws_session_token=keys.session_token,
            config=Config(s3={"addressing_style": "path"}),
        )
        client.upload_file(str(tmp_path / "w"), keys.bucket, keys.key)
        client.download_file(keys.bucket, keys.key, str(tmp_path / "copy"))
        assert (tmp_path / "copy").read_bytes() == data
        assert http.post(f"{path}/complete", json={"transfer": {}}).status_code == 200
        client.close()

    def test_wrong_keys_other_objects_and_old_grants_are_refused(
        self, serve_hub: Callable[..., RunningHub]
    ) -> None:
        client_error = pytest.importorskip("botocore.exceptions").ClientError

        moment = time.time()
        hub = serve_hub(url_ttl_s=60, now=lambda: moment)
        with raw(hub) as http:
            _, ticket = begin(http, b"data")
            _, second = begin(http, b"other")
        keys = TransferGrant.from_record(ticket["transfer_grant"])
        codes = []
        for changed in (
            {"secret_access_key": "wrong"},
            {"key": second["upload_id"]},
            {"session_token": str(int(keys.session_token) + 1000)},
        ):
            import msgspec

            client = s3_client(msgspec.structs.replace(keys, **changed))
            key = changed.get("key", keys.key)
            with pytest.raises(client_error) as refused:
                client.put_object(Bucket=keys.bucket, Key=key, Body=b"data")
            codes.append(refused.value.response["Error"]["Code"])
            client.close()
        moment += 61
        client = s3_client(keys)
        with pytest.raises(client_error) as old:
            client.put_object(Bucket=keys.bucket, Key=keys.key, Body=b"data")
        codes.append(old.value.response["Error"]["Code"])
        client.close()
        assert codes == ["SignatureDoesNotMatch"] * 3 + ["ExpiredToken"]


def test_a_part_that_is_refused_ends_the_upload_and_is_aborted(
    module_hub: RunningHub, tmp_path: Path
) -> None:
    (tmp_path / "w").write_bytes(os.urandom(2 * PART))

    def break_url(path: str, answer: dict[str, Any]) -> None:
        if path.endswith("/uploads"):
            answer["part_urls"][1] = answer["part_urls"][1].replace("sig=", "sig=0")

    wire = Wire(break_url)
    token = module_hub.hub.issue_token("write")
    with HubClient(module_hub.url, token, transport=wire) as client:
        with pytest.raises(ArtifactTransferError) as refused:
            send(client, tmp_path / "w")
    assert (refused.value.phase, refused.value.status_code, refused.value.retryable) == (
        "put",
        403,
        False,
    )
    # A revision, the upload, twice new URLs: the second ones brought it on, the third did not.
    assert [line.split()[0] for line in wire.asked] == ["POST"] * 4 + ["DELETE"] * 2
    assert "sig" not in str(refused.value)


def test_urls_that_expire_meanwhile_are_asked_for_again(
    module_hub: RunningHub, tmp_path: Path
) -> None:
    data = os.urandom(6 * PART)
    (tmp_path / "w").write_bytes(data)
    known: list[int] = []

    def let_one_expire(path: str, answer: dict[str, Any]) -> None:
        if path.endswith("/uploads"):
            known.append(len(answer["parts"]))
            if len(known) == 1:
                answer["part_urls"][5] = answer["part_urls"][5].replace("sig=", "sig=0")

    token = module_hub.hub.issue_token("write")
    with HubClient(module_hub.url, token, transport=Wire(let_one_expire)) as client:
        sent = send(client, tmp_path / "w")
    assert sent.blake3 == blake3(data).hexdigest()
    assert known[0] == 0
    assert known[1] > 0
    assert len(known) == 2


def test_a_canceled_upload_is_gone_on_with(module_hub: RunningHub, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(os.urandom(8 * PART))
    cancel, wire, seconds = CancelToken(), Wire(), itertools.count()

    def tell(_kind: str, payload: dict[str, Any]) -> None:
        if payload["chunks_uploaded"]:
            cancel.cancel()

    token = module_hub.hub.issue_token("write")
    clock = Clock(now=lambda: float(next(seconds)))  # every event is told
    with HubClient(module_hub.url, token, transport=wire, clock=clock) as client:
        with pytest.raises(CanceledError):
            send(client, tmp_path / "w", cancel=cancel, tell=tell)
        (deleted,) = [line for line in wire.asked if line.startswith("DELETE")]
        sent: list[int] = []
        send(client, tmp_path / "w", tell=lambda _kind, told: sent.append(told["chunks_uploaded"]))
    # The revision was given up; what was sent of the file was kept for the next one.
    assert len(deleted.split()[1]) == 32
    assert sent[-1] < 8


def test_limits_of_the_file_and_of_the_token(module_hub: RunningHub, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"x" * 101)
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(20 * 1024**3 + 1)
    token = module_hub.hub.issue_capability(
        publish=["acme/model"], create=("acme", ()), max_bytes_per_file=100
    )
    with HubClient(module_hub.url, token) as client:
        with pytest.raises(BudgetExceededError) as budget:
            send(client, tmp_path / "w")
        with pytest.raises(OutputTooLargeError):
            send(client, tmp_path / "huge")
        with pytest.raises(ValidationError, match="cannot read"):
            send(client, tmp_path / "none")
        client.capability = None  # as an older client, which does not look
        with pytest.raises(HubRequestError) as refused:
            send(client, tmp_path / "w")
    assert (budget.value.size_bytes, budget.value.max_bytes) == (101, 100)
    assert (refused.value.status_code, refused.value.code) == (413, "budget_exceeded")


def test_uploads_wait_for_each_other_within_the_tokens_budget(
    module_hub: RunningHub, tmp_path: Path
) -> None:
    from gen_worker.models.hub.capability import Capability
    from gen_worker.models.hub.uploading import Uploader

    under_way, most = 0, 0
    lock, two = threading.Lock(), threading.Barrier(2)

    class Slow(Uploader):
        def _create(self, collection: str, body: dict[str, Any]) -> dict[str, Any]:
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)
            two.wait(60)
            time.sleep(0.02)  # a third would come meanwhile
            with lock:
                under_way -= 1
            return {"dedup": True}

    with module_hub.client() as client:
        uploader = Slow(client.connection, Capability(max_total_bytes=100))
        facts = FileFacts("unread", 50, "0" * 64)
        threads = [
            threading.Thread(
                target=uploader.send,
                args=("", "unread"),
                kwargs={"identity": ("path", "w"), "extra": {}, "facts": facts},
            )
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 2
