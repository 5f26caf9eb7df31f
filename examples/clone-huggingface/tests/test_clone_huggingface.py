"""A repository on loopback, spoken to as the site itself is, becomes flavors of one revision."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from gen_worker.events import Result
from gen_worker.runtime import Engine, Invocation
from gen_worker.runtime.local import JsonLineEvents, local_ports
from gen_worker.spec import specs_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

from clone_huggingface.main import Clone

COMMIT = "c" * 40
ASKED: list[str] = []
WEIGHTS = {"layer.weight": torch.linspace(-1, 1, 4096).reshape(64, 64)}
FILES: dict[str, bytes] = {
    "README.md": b"---\nlicense: mit\n---\n# A model\n",
    "config.json": b'{"torch_dtype": "float32"}',
    "model.safetensors": safetensors_torch.save(WEIGHTS, metadata={"format": "pt"}),
    "pytorch_model.bin": b"a pickle that nobody wants",
    "tokenizer.json": b"{}",
}


def entry(path: str, data: bytes) -> dict[str, Any]:
    sha1 = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return {"type": "file", "path": path, "size": len(data), "oid": sha1}


class Site(BaseHTTPRequestHandler):
    """Answers for one repository, `some/llm`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        ASKED.append(path)
        body: bytes | None = None
        if path.startswith("/api/models/some/llm"):
            listed = [entry(*item) for item in sorted(FILES.items())]
            facts = {"id": "some/llm", "sha": COMMIT, "siblings": []}
            body = json.dumps(listed if "/tree/" in path else facts).encode()
        elif "/resolve/" in path:
            body = FILES.get(path.rpartition("/")[2])
        self.answer(body)

    do_HEAD = do_GET

    def answer(self, body: bytes | None) -> None:
        span = self.headers.get("range", "")
        data, status = body or b"", 200 if body is not None else 404
        headers = {}
        if span and body is not None:
            first, _, last = span.removeprefix("bytes=").partition("-")
            stop = min(int(last) + 1, len(body)) if last else len(body)
            data, status = body[int(first) : stop], 206
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(body)}"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads, server.block_on_close = True, False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TENSORHUB_CAS_DIR", str(tmp_path / "cas"))
    yield url
    server.shutdown()
    thread.join()
    server.server_close()


def has_proof(card: Path) -> bool:
    names = {path.name for path in card.parent.iterdir()}
    return {"provenance.json", "verification.json", "model.safetensors"} <= names


def test_a_repository_becomes_flavors_of_one_revision(site: str, tmp_path: Path) -> None:
    told = io.StringIO()
    ports = local_ports(events=JsonLineEvents(told), output_dir=str(tmp_path / "out"))
    payload = {
        "huggingface_repo": "some/llm",
        "destination_repo": "demo/llm",
        "outputs": ["bf16"],
    }
    call = Invocation(function="import-model", payload=payload, request_id="r", job_id="j")

    answer = Engine(specs_of(Clone), ports).run(call)

    assert isinstance(answer, Result), answer
    made = [safetensors_torch.load_file(path) for path in (tmp_path / "out").rglob("*.safetensors")]
    assert any(
        torch.equal(one["layer.weight"], WEIGHTS["layer.weight"].to(torch.bfloat16)) for one in made
    )
    assert "publish_repo_revision.stubbed" in told.getvalue()
    assert "fp32: 4 files as they are at the source" in told.getvalue()
    assert "bf16: 1 tensors, at least" in told.getvalue()
    (card,) = (
        path.read_text() for path in (tmp_path / "out").rglob("README.md") if has_proof(path)
    )
    assert 'license: mit\nbase_model: "some/llm"' in card
    assert "| lowest SNR |" in card
    assert not any("pytorch_model.bin" in path for path in ASKED if "/resolve/" in path)
