"""What callers may not do with the refs and URLs of their files."""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gen_worker.context.local import run_blocking
from gen_worker.errors import ArtifactTransferError, AuthError, ValidationError
from gen_worker.ports import FileLimits, SaveOptions
from gen_worker.runtime.files import FilePolicy, JobScope, WorkerFiles
from gen_worker.types import Asset, Tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import WebServer

ANY = FileLimits()


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def files(root: Path, shared_web: WebServer) -> Iterator[WorkerFiles]:
    """A worker whose operator trusts one server of this machine."""
    policy = FilePolicy(
        job_dir=str(root / "jobs"), trusted_urls=(shared_web.origin,), download_tries=1
    )
    files = WorkerFiles(policy, Silence())
    yield files
    files.close()


class Silence:
    def emit(self, event: object) -> None: ...


def take(files: WorkerFiles, value: Any) -> Any:
    files.enter("r", JobScope())
    try:
        return run_blocking(files.materialize(value, ANY, request_id="r"))
    finally:
        run_blocking(files.release("r"))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://127.1/x",
        "http://0x7f000001/x",
        "http://2130706433/x",
        "http://localhost/x",
        "http://localhost./x",
        "http://0.0.0.0/x",
        "http://10.0.0.1/x",
        "http://172.16.0.1/x",
        "http://192.168.1.1/x",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/x",
        "http://224.0.0.1/x",
        "http://[::1]/x",
        "http://[::ffff:127.0.0.1]/x",
        "http://[::ffff:a9fe:a9fe]/x",
        "http://[64:ff9b::7f00:1]/x",
        "http://[fe80::1]/x",
        "http://[fd00::1]/x",
        "http://[::]/x",
        "http://user:password@127.0.0.1/x",
        "http://example.com\\@127.0.0.1/x",
        "http://127.0.0.1\t/x",
        "http:///x",
        "ftp://example.com/x",
        "file:///etc/passwd",
        "gopher://127.0.0.1/x",
        "data://text/plain,x",
        "unix://var/run/docker.sock",
    ],
)
def test_no_url_leads_inside(files: WorkerFiles, url: str) -> None:
    with pytest.raises(ValidationError, match="refused"):
        take(files, Asset(ref=url))


def test_a_redirect_leads_no_further_than_a_url(
    files: WorkerFiles, web: WebServer, other_web: WebServer
) -> None:
    for target in (
        other_web.page("/secret", b"secret"),
        "http://169.254.169.254/",
        "file:///etc/passwd",
    ):
        url = web.page("/go", b"", status=302, Location=target)
        with pytest.raises(ValidationError, match="refused"):
            take(files, Asset(ref=url))
    url = web.page("/go", lambda asked: asked.answer(b"", 307, Location="/go"))
    with pytest.raises(ValidationError, match="redirects more than"):
        take(files, Asset(ref=url))
    assert other_web.asked == []


def test_a_name_leads_where_its_addresses_do(
    files: WorkerFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that mixes good and bad addresses, or changes its mind, gains nothing."""
    asked: list[str] = []

    def lookup(host: str, port: int, **_options: Any) -> list[Any]:
        asked.append(host)
        inner = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        outer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", port))]
        return outer + inner if host == "mixed.example" else inner

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    for host in ("inner.example", "mixed.example"):
        with pytest.raises(ValidationError, match="no public address"):
            take(files, Asset(ref=f"http://{host}/x"))
    assert asked == ["inner.example", "mixed.example"]


def test_an_address_is_looked_up_once_per_hop(
    files: WorkerFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["93.184.216.34", "127.0.0.1", "127.0.0.1"])
    dialed: list[Any] = []

    def lookup(host: str, port: int, **_options: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def dial(addresses: Any, *_arguments: Any, **_options: Any) -> Any:
        dialed.extend(addresses)
        raise ArtifactTransferError("not today", phase="network")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr("gen_worker.models.net.opener.dial", dial)
    with pytest.raises(ArtifactTransferError, match="not today"):
        take(files, Asset(ref="http://rebinding.example/x"))
    assert dialed == ["93.184.216.34"]


def test_a_path_of_this_machine_is_not_read(files: WorkerFiles, root: Path) -> None:
    secret = root / "secret.txt"
    secret.write_text("secret")
    for value in (
        Asset(ref=str(secret)),
        Asset(ref="secret.txt", local_path=str(secret)),
        Asset(ref=os.path.relpath(secret)),
        Tensors(ref=str(secret)),
        Tensors(ref="w", blob_digest="blake3:" + "0" * 64),
        Tensors(ref="w", blob_digest="../../secret.txt"),
    ):
        with pytest.raises((ValidationError, AuthError)):
            take(files, value)


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
@example("../../etc/passwd")
@example("jobs/../../x")
@example("/etc/passwd")
@example("a/%2e%2e/b")
@example("C:\\x")
@example("a\x00b")
@example("https://[")
def test_any_ref_is_a_typed_refusal_or_a_file_of_the_request(
    files: WorkerFiles, root: Path, ref: str
) -> None:
    before = besides_requests(root)
    for value in (Asset(ref=ref), Asset(ref=ref, inline_bytes=b"text")):
        files.enter("r", JobScope())
        inside = os.path.join(files.requests.get("r").directory, "")
        with suppress(ValidationError, AuthError):
            found = run_blocking(files.materialize(value, ANY, request_id="r"))
            assert found.local_path is None or os.path.realpath(found.local_path).startswith(inside)
        run_blocking(files.release("r"))
    assert besides_requests(root) == before


def besides_requests(root: Path) -> set[str]:
    return {str(path) for path in root.rglob("*") if "/jobs/worker-" not in str(path)}


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_request_id_is_a_directory_of_its_own(request_id: str, ref: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        jobs, outputs = Path(folder, "jobs"), Path(folder, "out")
        files = WorkerFiles(FilePolicy(job_dir=str(jobs), output_dir=str(outputs)), Silence())
        made = files.requests.enter(request_id, JobScope()).directory
        assert Path(made).parent.parent == jobs
        with suppress(ValidationError):
            saving = files.save(ref, b"x", SaveOptions(), request_id=request_id)
            saved = Path(os.path.realpath(str(run_blocking(saving).local_path)))
            assert saved.is_relative_to(outputs)
        files.close()
        assert {path.name for path in Path(folder).iterdir()} <= {"jobs", "out"}
        assert list(jobs.iterdir()) == []
