"""Tokens, scopes, hostile requests, and the other records of a hub."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
from blake3 import blake3

from gen_worker.errors import ArtifactTransferError, AuthError, ValidationError
from gen_worker.models.hub import (
    HubAuthError,
    HubClient,
    HubRequestError,
    Ingested,
    IngestRequest,
    LocalHub,
    NoCompatibleArtifactError,
    NotOnHubError,
    PublicModelError,
    RepoNotFoundError,
    publish_folder,
)
from gen_worker.models.hub.lookup import pipeline_class_of, repo_facts
from gen_worker.models.refs import TensorhubRef, parse_ref

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import RunningHub

REF = TensorhubRef(owner="acme", repo="model")


def folder_of(folder: Path, **files: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name.replace("_dot_", ".")).write_bytes(data)
    return folder


# -- tokens ----------------------------------------------------------------------------------------


def status(hub: RunningHub, method: str, path: str, token: str = "", **headers: str) -> int:
    if token:
        headers["authorization"] = f"Bearer {token}"
    return httpx.request(
        method, f"{hub.url}{path}", json={}, headers=headers, timeout=60
    ).status_code


READ, WRITE = "/api/v1/repos/acme/model/tree", "/api/v1/repos/acme/model/revisions"


def test_scopes_contain_those_below_them(module_hub: RunningHub, tmp_path: Path) -> None:
    with module_hub.client() as client:
        publish_folder(client, folder_of(tmp_path / "m", w=b"1"), "acme/model")
    issue = module_hub.hub.issue_token
    outcomes = {
        scope: (
            status(module_hub, "GET", READ, token),
            status(module_hub, "POST", WRITE, token),
        )
        for scope, token in {
            "none": "",
            "read": issue("read"),
            "write": issue("write"),
            "admin": issue("admin"),
        }.items()
    }
    assert outcomes == {
        "none": (401, 401),
        "read": (200, 403),
        "write": (200, 200),
        "admin": (200, 200),
    }
    with pytest.raises(ValueError, match="root"):
        issue("root")


def test_an_admin_makes_tokens_and_sweeps(hub: RunningHub, tmp_path: Path) -> None:
    with hub.client() as client, hub.client("write") as writer:
        for number in (1, 2):
            folder = folder_of(tmp_path / "m", w=b"%d" % number)
            publish_folder(client, folder, "acme/model", tags=())
        made = client.connection.ask(
            "POST", "/api/v1/tokens", phase="admin", body={"scopes": ["read"], "subject": "ci"}
        ).data["token"]
        assert (status(hub, "GET", READ, made), status(hub, "POST", WRITE, made)) == (200, 403)
        swept = client.connection.ask(
            "POST", "/api/v1/gc", phase="admin", body={"older_than_s": 0, "untagged": True}
        ).data
        assert (swept["checkpoints"], swept["blobs"]) == (1, 1)
        assert client.resolve(_ref("acme/model:latest")).snapshot.size_bytes == 1
        for path, body in (("tokens", {"scopes": ["admin"]}), ("gc", {})):
            with pytest.raises(HubAuthError):
                writer.connection.ask("POST", f"/api/v1/{path}", phase="admin", body=body)
        for scopes in ([], ["root"]):
            with pytest.raises(HubRequestError):
                client.connection.ask(
                    "POST", "/api/v1/tokens", phase="admin", body={"scopes": scopes}
                )


def test_tokens_that_are_not_valid_any_more(serve_hub: Callable[..., RunningHub]) -> None:
    moment = time.time()
    hub = serve_hub(now=lambda: moment, admin_token="my own words")
    revoked, short = hub.hub.issue_token("read"), hub.hub.issue_token("read", ttl_s=60)
    claims = jwt.decode(short, options={"verify_signature": False})
    forged = jwt.encode({**claims, "scopes": ["admin"]}, "k" * 32, algorithm="HS256")
    unsigned = jwt.encode({**claims, "scopes": ["admin"]}, "", algorithm="none")
    foreign = serve_hub("other").hub.issue_token("admin")
    assert [status(hub, "GET", "/api/v1/repos", token) for token in (revoked, short)] == [200] * 2
    assert status(hub, "GET", "/api/v1/repos", "my own words") == 200
    hub.hub.revoke(revoked)
    hub.hub.revoke("no token at all")
    moment += 61
    for token in (revoked, short, forged, unsigned, foreign, "my own word", "a.b.c", "Ä"):
        headers = {b"authorization": f"Bearer {token}".encode()}
        assert httpx.get(f"{hub.url}/api/v1/repos", headers=headers, timeout=60).status_code == 401
    assert status(hub, "GET", "/api/v1/repos", authorization="Basic eA==") == 401


def test_a_jobs_token_reaches_its_repositories_only(module_hub: RunningHub, tmp_path: Path) -> None:
    secret = os.urandom(100)
    with module_hub.client() as client:
        publish_folder(client, folder_of(tmp_path / "a", w=b"1"), "job/input")
        publish_folder(client, folder_of(tmp_path / "b", w=secret), "job/private")
    token = module_hub.hub.issue_capability(
        read=["Job/Input"], publish=["job/output", "job/uncreated"], create=("job", ["output"])
    )
    digest = blake3(secret).hexdigest()
    with HubClient(module_hub.url, token) as client:
        assert client.resolve(TensorhubRef(owner="job", repo="input")).snapshot.files
        done = publish_folder(client, folder_of(tmp_path / "c", w=b"2"), "job/output")
        assert done.sent_bytes == 1
        for refused in (
            lambda: client.resolve(TensorhubRef(owner="job", repo="private")),
            lambda: client.get_blob(digest, str(tmp_path / "stolen")),
        ):
            with pytest.raises(HubAuthError) as error:
                refused()
            assert error.value.status_code == 403
        with pytest.raises(ValidationError, match="repo-version:create"):
            client.open_revision("job", "private")
        with pytest.raises(ValidationError, match="tensor-repo:create"):
            client.open_revision("job", "uncreated")
        with pytest.raises(ValidationError, match="tensor-repo:read"):
            client.metadata("job", "private")
        client.capability = None  # as an older client, which does not look
        for repo in ("private", "uncreated"):
            with pytest.raises(AuthError):
                client.open_revision("job", repo)
        # Knowing a digest is not having the bytes.
        revision = client.open_revision("job", "output")
        sent = revision.upload(folder_of(tmp_path / "d", w=secret) / "w", "w")
        assert not sent.dedup
        assert [repo["name"] for repo in client.repos("job")] == ["input", "output"]


def test_a_jobs_token_acts_for_its_own_owner_only(module_hub: RunningHub, tmp_path: Path) -> None:
    file = str(folder_of(tmp_path / "f", f=b"private") / "f")
    with module_hub.client() as client:
        client.upload_media(file, "secret/file", owner="other")
        client.put_dataset("other", "rows", {})
    token = module_hub.hub.issue_capability(read=["mine/model"])
    with HubClient(module_hub.url, token) as client:
        assert client.upload_media(file, "f", owner="mine").size_bytes == 7
        assert not client.put_dataset("mine", "rows", {})["existed"]
        for refused in (
            lambda: client.upload_media(file, "f", owner="other"),
            lambda: client.file_facts("secret/file"),
            lambda: client.datasets("other"),
            lambda: client.put_dataset("other", "more", {}),
        ):
            with pytest.raises(HubAuthError):
                refused()


def test_web_pages_of_others_change_nothing(serve_hub: Callable[..., RunningHub]) -> None:
    hub = serve_hub(anonymous=("admin",))
    assert status(hub, "POST", WRITE) == 200
    assert status(hub, "POST", WRITE, origin="https://evil.example") == 403
    token = hub.hub.issue_token("admin")
    assert status(hub, "POST", WRITE, token, origin="https://console.example") == 200


def test_the_key_and_the_records_are_their_owners(tmp_path: Path) -> None:
    with LocalHub(tmp_path / "hub") as hub:
        token = hub.issue_token("read")
    assert (tmp_path / "hub").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "hub" / "key").stat().st_mode & 0o777 == 0o600
    with LocalHub(tmp_path / "hub") as hub, pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, "x" * 32, algorithms=["HS256"])


# -- hostile requests ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/", b"", 404),
        ("GET", "//", b"", 404),
        ("GET", "/api/v1/repos/../../etc/passwd", b"", 404),
        ("GET", "/api/v1/repos/%2e%2e/%2e%2e/tree", b"", 400),
        ("GET", "/api/v1/repos/a%2Fb/c%00/tree", b"", 400),
        ("GET", "/api/v1/repos/a/b/tree?" + "&".join(f"a{n}=1" for n in range(200)), b"", 400),
        ("GET", "/blob/..%2F..%2Fhub.sqlite3", b"", 403),
        ("GET", "/api/v1/blobs/..%2F..%2Fkey/content", b"", 400),
        ("GET", f"/api/v1/blobs/sha256:{'0' * 64}/content", b"", 400),
        ("GET", "/api/v1/file/..%2F..%2Fkey", b"", 404),
        ("POST", "/api/v1/repos/a/b/tree", b"", 405),
        ("POST", "/api/v1/repos/a/b/resolve", b"{", 400),
        ("POST", "/api/v1/repos/a/b/resolve", b"[" * 100_000, 400),
        ("POST", "/api/v1/repos/a/b/resolve", b"\xff", 400),
        ("POST", "/api/v1/repos/a/b/resolve", b'{"tag": 1}', 400),
        ("POST", "/api/v1/repos/a/b/resolve", b'{"tag": "x"}', 404),
        ("PUT", "/api/v1/repos/a/b/tags?tag=..%2Fx", b'{"checkpoint_id": "x"}', 400),
        ("PUT", "/api/v1/repos/a/b/tags", b'{"checkpoint_id": "x"}', 400),
        ("POST", "/api/v1/repos/a/b/revisions/none/finalize", b'{"checkpoint_flavors": []}', 404),
        ("DELETE", "/api/v1/repos/a/b/revisions/none", b"", 404),
        ("GET", "/api/v1/datasets", b"", 400),
        ("GET", "/api/v1/datasets/none", b"", 404),
        ("POST", "/api/v1/public/models/request", b'{"model_ref": "hf:nope"}', 400),
        ("PUT", "/upload/none/1", b"x", 403),
        ("PUT", "/hub-uploads/none", b"x", 403),
        ("GET", "/hub-uploads/../key", b"", 403),
    ],
)
def test_whatever_is_sent_gets_a_typed_answer(
    module_hub: RunningHub, method: str, path: str, body: bytes, expected: int
) -> None:
    """Sent raw: a client library would tidy the path up."""
    parts = urlsplit(module_hub.url)
    token = module_hub.hub.issue_token("admin")
    head = f"{method} {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token}\r\n"
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as sock:
        sock.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert int(answer.split()[1]) == expected
    assert b'"error"' in answer or b"<Error>" in answer
    assert status(module_hub, "GET", "/api/v1/repos", token) == 200


def test_bodies_have_a_limit(serve_hub: Callable[..., RunningHub]) -> None:
    hub = serve_hub(max_body_bytes=1000, anonymous=("admin",))
    path = f"{hub.url}/api/v1/repos/a/b/metadata"
    told = httpx.put(path, content=b" " * 1001, timeout=60)
    untold = httpx.put(path, content=iter([b" " * 600] * 2), timeout=60)
    assert [told.status_code, untold.status_code] == [413, 413]


def test_a_body_that_breaks_off_changes_nothing(module_hub: RunningHub) -> None:
    parts = urlsplit(module_hub.url)
    token = module_hub.hub.issue_token("admin")
    head = f"PUT /api/v1/repos/cut/off/metadata HTTP/1.1\r\nHost: {parts.netloc}\r\n"
    head += f"Authorization: Bearer {token}\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port)) as sock:
        sock.sendall(head.encode() + b'{"metadata": {}')
    with module_hub.client() as client, pytest.raises(RepoNotFoundError):
        client.repo("cut", "off")


# -- garbage ---------------------------------------------------------------------------------------


def blob_count(folder: Path) -> int:
    return sum(path.is_file() for path in (folder / "hub" / "cas" / "blobs").rglob("*"))


def test_only_what_nothing_refers_to_is_collected(hub: RunningHub, tmp_path: Path) -> None:
    with hub.client() as client:
        publish_folder(client, folder_of(tmp_path / "m", w=b"published"), "acme/model")
        client.upload_media(str(folder_of(tmp_path / "f", f=b"media") / "f"), "f", owner="acme")
        pending = client.open_revision("acme", "model")
        pending.upload(folder_of(tmp_path / "p", p=b"pending") / "p", "p")
        broken = client.open_revision("acme", "model")
        broken.upload(folder_of(tmp_path / "b", b=b"broken") / "b", "b")
        broken.abort()
        assert blob_count(tmp_path) == 4
        assert hub.hub.collect_garbage().blobs == 0  # all of it is young
        first = hub.hub.collect_garbage(older_than_s=-1)
        assert (first.blobs, first.blob_bytes) == (1, 6)
        pending.abort()
        second = hub.hub.collect_garbage(older_than_s=-1)
        assert (second.blobs, blob_count(tmp_path)) == (1, 2)
        assert client.resolve(REF).snapshot.files[0].size_bytes == 9


def test_uploads_nobody_went_on_with_are_collected(hub: RunningHub, tmp_path: Path) -> None:
    data = os.urandom(3 * 64 * 1024)
    body = {"path": "w", "blake3": blake3(data).hexdigest(), "size_bytes": len(data)}
    with hub.client() as client:
        revision = client.open_revision("acme", "model")
        path = f"/api/v1/repos/acme/model/revisions/{revision.revision_id}/uploads"
        ticket = client.connection.ask("POST", path, phase="create", body=body).data
        httpx.put(ticket["part_urls"][0], content=data[: 64 * 1024], timeout=60)
        assert hub.hub.collect_garbage(older_than_s=3600).upload_bytes == 0
        assert hub.hub.collect_garbage(older_than_s=-1).upload_bytes == 64 * 1024
        assert list((tmp_path / "hub" / "staging").iterdir()) == []
        with pytest.raises(HubRequestError):
            client.connection.ask("GET", f"{path}/{ticket['upload_id']}", phase="create")


# -- datasets, media, metadata ---------------------------------------------------------------------


def test_a_datasets_revisions_stay_as_they_were(module_hub: RunningHub, tmp_path: Path) -> None:
    with module_hub.client() as client:
        sent = client.upload_media(
            str(folder_of(tmp_path / "d", rows=b"rows") / "rows"), "rows", owner="acme"
        )
        manifest = [{"path": "rows", "digest": f"blake3:{sent.blake3}", "size_bytes": 4}]
        schema = {"features": {"text": "string"}, "__cozy_snapshot_manifest__": manifest}
        first = client.put_dataset("acme", "Prompts", schema)
        second = client.put_dataset("acme", "prompts", {"features": {}}, visibility="public")
        known = client.find_dataset("acme", "PROMPTS")
        path = f"/api/v1/datasets/{first['dataset_id']}"
        old = client.connection.ask("GET", path, phase="d", query={"revision": "1"}).data
        assert (first["existed"], second["existed"]) == (False, True)
        assert first["dataset_id"] == second["dataset_id"]
        assert known is not None
        assert (known["revision"], known["features"], known["visibility"]) == (2, {}, "public")
        assert (old["schema"], old["visibility"]) == (schema, "private")
        hostile = {**schema, "__cozy_snapshot_manifest__": [{**manifest[0], "path": "../x"}]}
        for wrong in (hostile, {**schema, "__cozy_snapshot_manifest__": 3}):
            with pytest.raises(HubRequestError) as refused:
                client.put_dataset("acme", "prompts", wrong)
            assert refused.value.code == "invalid_manifest"
        with pytest.raises(HubRequestError):
            client.put_dataset("acme", "prompts", schema, visibility="secret")
        assert client.find_dataset("acme", "other") is None


def test_a_job_reads_the_files_of_the_datasets_that_it_was_given(
    module_hub: RunningHub, tmp_path: Path
) -> None:
    data = os.urandom(64)
    with module_hub.client() as client:
        file = str(folder_of(tmp_path / "d", rows=data) / "rows")
        sent = client.upload_media(file, "jobs/1/outputs/rows", owner="somebody")
        entry = {"path": "rows", "digest": f"blake3:{sent.blake3}", "size_bytes": len(data)}
        schema = {"features": {}, "__cozy_snapshot_manifest__": [entry]}
        client.put_dataset("given", "rows", schema)
    blob, issue = f"/api/v1/blobs/blake3:{sent.blake3}/content", module_hub.hub.issue_capability
    given, other = issue(read=["given/rows"]), issue(read=["given/other"])
    assert status(module_hub, "GET", blob, given) == 200
    assert status(module_hub, "GET", blob, other) == 403
    with HubClient(module_hub.url, other) as client:
        with pytest.raises(HubRequestError) as refused:  # to read it as one of its own
            client.put_dataset("given", "other", schema)
        assert refused.value.code == "blob_missing"
        client.upload_media(file, "jobs/2/outputs/rows", owner="given")  # it has the bytes
        client.put_dataset("given", "other", schema)
    assert status(module_hub, "GET", blob, other) == 200


def test_tags_of_datasets_move_with_a_publication(module_hub: RunningHub) -> None:
    with module_hub.client() as client:
        for number, tags in enumerate((["prod", "V1"], [], ["prod"]), 1):
            schema = {"features": {"n": str(number)}}
            answer = client.put_dataset("acme", "tagged", schema, tags=tags)
            assert answer["revision"] == number
        found = {
            tag: (client.find_dataset("acme", "tagged", tag=tag) or {})["revision"]
            for tag in ("", "latest", "prod", "v1")
        }
        assert found == {"": 3, "latest": 3, "prod": 3, "v1": 1}
        with pytest.raises(NotOnHubError, match="no tag 'v2': it has 'prod', 'v1'"):
            client.find_dataset("acme", "tagged", tag="v2")
        with pytest.raises(ValidationError, match="latest"):
            client.put_dataset("acme", "tagged", schema, tags=["latest"])
        # Before there is a tag, the default one of refs means the newest.
        client.put_dataset("acme", "untagged", schema)
        newest = client.find_dataset("acme", "untagged", tag="prod")
        assert (newest or {})["revision"] == 1
        # What a revision says does not depend on its tags.
        digests = [
            client.find_dataset("acme", "tagged", revision=seq or "1") or {} for seq in ("1", "3")
        ]
        assert digests[1]["tags"] == {"prod": 3, "v1": 1}
        again = client.put_dataset("acme", "tagged", schema)
        assert again["revision_digest"] == digests[1]["revision_digest"]


def test_a_dataset_that_is_kept_differently_is_a_failure(
    module_hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with module_hub.client() as client:
        told = {"schema": {"__cozy_snapshot_manifest__": [{"path": "other"}]}}
        monkeypatch.setattr(client, "_dataset_revision", lambda *_: told)
        with pytest.raises(ArtifactTransferError, match="other files") as failed:
            client.put_dataset("acme", "changed", {"features": {}})
        assert failed.value.phase == "dataset"


def test_media_are_read_by_their_ref(module_hub: RunningHub, tmp_path: Path) -> None:
    import hashlib

    data, ref = b"\x89PNG...", "jobs/1/outputs/cat.png"
    with module_hub.client(owner="acme") as client:
        file = folder_of(tmp_path / "m", cat_dot_png=data) / "cat.png"
        sent = client.upload_media(str(file), ref, content_type="image/png", request_id="r")
        again = client.upload_media(str(file), ref)
        facts = client.file_facts(ref)
        got = httpx.get(client.file_url(ref), headers=client.connection.headers(), timeout=60)
        missing = client.file_facts("jobs/2/none")
    digest = hashlib.sha256(data).hexdigest()
    assert (sent.sha256, sent.mime_type, again.dedup) == (digest, "image/png", True)
    assert facts is not None
    assert (facts["sha256"], facts["size_bytes"]) == (digest, str(len(data)))
    assert (got.content, missing) == (data, None)


def test_metadata_is_kept(module_hub: RunningHub) -> None:
    with module_hub.client() as client:
        assert client.metadata("meta", "data") == {"exists": False, "metadata": {}}
        assert client.put_metadata("meta", "data", {"base": "x"}) == {"base": "x"}
        assert client.metadata("meta", "data") == {"exists": True, "metadata": {"base": "x"}}


# -- what overrides are checked against ------------------------------------------------------------


def test_overrides_are_looked_up(module_hub: RunningHub, tmp_path: Path) -> None:
    index = b'{"_class_name": "FluxPipeline"}'
    with module_hub.client() as client:
        publish_folder(
            client, folder_of(tmp_path / "m", model_index_dot_json=index), "look/up", flavor="bf16"
        )
        facts = {
            text: repo_facts(client, _ref(f"look/{text}"))
            for text in ("up", "up:v9", "up#int4", "nothing")
        }
        found = client.resolve(_ref("look/up"))
        import msgspec

        untold = msgspec.structs.replace(found, pipeline_class=None)
        assert pipeline_class_of(client, untold) == "FluxPipeline"  # read from the file itself
    assert facts["up"] is not None
    assert facts["up"].pipeline_class == "FluxPipeline"
    assert sorted(facts["up"].tags) == ["latest", "prod"]
    assert sorted(facts["up"].flavors) == ["bf16"]
    assert facts["up:v9"] is not None
    assert "v9" not in facts["up:v9"].tags
    assert facts["up#int4"] is not None
    assert sorted(facts["up#int4"].flavors) == ["bf16"]
    assert facts["nothing"] is None


def _ref(text: str) -> TensorhubRef:
    ref = parse_ref(text)
    assert isinstance(ref, TensorhubRef)
    return ref


# -- public models ---------------------------------------------------------------------------------


def test_a_public_model_is_fetched_once(serve_hub: Callable[..., RunningHub]) -> None:
    asked: list[IngestRequest] = []

    def ingest(request: IngestRequest, folder: str) -> Ingested:
        asked.append(request)
        if request.ref == "Owner/gone":
            raise RepoNotFoundError("no such repository")
        if request.ref == "Owner/odd":
            raise NoCompatibleArtifactError("only pickles")
        with open(os.path.join(folder, "model.gguf"), "wb") as file:
            file.write(b"weights")
        return Ingested(dtype="bf16")

    hub = serve_hub(ingester=ingest)
    with hub.client() as client:
        found = client.request_public("hf:Owner/Repo", dtypes=("fp16",), file_types=("gguf",))
        again = client.request_public("hf:Owner/Repo", dtypes=("fp16",), file_types=("gguf",))
        assert httpx.get(found.snapshot.files[0].url, timeout=60).content == b"weights"
        with pytest.raises(PublicModelError) as gone:
            client.request_public("hf:Owner/gone")
        with pytest.raises(NoCompatibleArtifactError):
            client.request_public("hf:Owner/odd")
    assert found.snapshot.digest == again.snapshot.digest
    assert (gone.value.status_code, gone.value.code) == (502, "ingest_failed")
    assert asked[0] == IngestRequest(
        ref="Owner/Repo",
        provider="hf",
        dtypes=("bf16", "fp16"),
        file_types=("gguf",),
        file_layouts=("diffusers",),
    )
    assert len(asked) == 3


def test_what_an_ingester_only_links_to_stays_where_it_is(
    serve_hub: Callable[..., RunningHub], tmp_path: Path
) -> None:
    own = folder_of(tmp_path / "own", w=b"weights") / "w"

    def ingest(request: IngestRequest, folder: str) -> Ingested:
        os.symlink(own, os.path.join(folder, "a.gguf"))
        with open(os.path.join(folder, "c"), "wb") as file:
            file.write(b"more")
        os.symlink("c", os.path.join(folder, "d"))
        return Ingested()

    with serve_hub(ingester=ingest).client() as client:
        files = client.request_public("hf:Owner/Linked").snapshot.files
        contents = {file.path: httpx.get(file.url, timeout=60).content for file in files}
    assert contents == {"a.gguf": b"weights", "c": b"more", "d": b"more"}
    assert own.read_bytes() == b"weights"
    assert own.stat().st_mode & 0o200


def test_public_models_need_an_ingester_and_a_token(
    serve_hub: Callable[..., RunningHub],
) -> None:
    hub = serve_hub(anonymous=("read",))
    with hub.client() as client, pytest.raises(PublicModelError) as none:
        client.request_public("hf:owner/repo")
    other = serve_hub("other", anonymous=("read",), ingester=lambda _request, _folder: Ingested())
    with HubClient(other.url) as client, pytest.raises(PublicModelError) as stranger:
        client.request_public("hf:owner/repo")
    assert [none.value.status_code, stranger.value.status_code] == [403, 403]


def test_the_hubs_own_models_are_public_ones_too(module_hub: RunningHub, tmp_path: Path) -> None:
    with module_hub.client() as client:
        publish_folder(client, folder_of(tmp_path / "m", w=b"own"), "own/model")
        found: Any = client.request_public("cozy:own/model")
    assert [file.size_bytes for file in found.snapshot.files] == [3]
