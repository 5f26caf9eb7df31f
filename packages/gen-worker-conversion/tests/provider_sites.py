"""Hugging Face, Civitai and a hub on loopback, and the context of a job that imports from them."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from gen_worker.context import ConversionContext
from gen_worker.context.local import run_blocking
from gen_worker.conversion.ingest import Providers
from gen_worker.events import Emitted, Telemetry
from gen_worker.models.hub import HubClient, LocalHub, pull_folder
from gen_worker.models.refs import TensorhubRef, parse_ref
from gen_worker.models.settings import ModelSettings
from gen_worker.models.store import ContentStore
from gen_worker.ports import Ports
from gen_worker.runtime.files import FilePolicy, JobScope, WorkerFiles
from gen_worker.runtime.files.publisher import HubPublisher
from gen_worker.runtime.http import HttpServer, open_listener
from gen_worker.runtime.ndjson.address import TcpAddress
from gen_worker.testing.loop_thread import LoopThread

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "c" * 40
_LARGE = 2_000
"""Files from here on have a SHA-256, as those in LFS do."""


class Asked(NamedTuple):
    path: str
    authorization: str
    range: str


class Sites:
    """One server that answers as both sites do; paths of files are below `/blob`."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.token = ""
        """What may read; empty: everybody."""
        self.cut_after = 0
        """The next blob is broken off after so many bytes; 0 for none."""
        self.faults: dict[str, list[int]] = {}
        """Statuses of the next answers, by a part of the path."""
        self.redirects: dict[str, str] = {}
        """Where paths lead, by their beginning."""
        sites = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                sites._answer(self)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: object, client_address: object) -> None:
                """Clients may leave."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add_version(self, number: int, files: dict[str, bytes], **more: Any) -> None:
        """Publish a version of model 77 on Civitai."""
        entries = []
        for place, (name, data) in enumerate(files.items()):
            sha = hashlib.sha256(data).hexdigest()
            self.blobs[sha] = data
            entries.append(
                {
                    "id": 100 * number + place,
                    "name": name,
                    "primary": not place,
                    "hashes": {"SHA256": sha.upper()},
                    "downloadUrl": f"{self.url}/blob/{sha}",
                }
            )
        record = {"id": number, "modelId": 77, "baseModel": "SDXL 1.0", "files": entries, **more}
        self.versions[str(number)] = record
        listed = self.models.setdefault("77", {"id": 77, "modelVersions": []})
        listed["modelVersions"].insert(0, {"id": number})

    def asked_for(self, part: str) -> list[Asked]:
        return [one for one in self.asked if part in one.path]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(request.path.partition("?")[0])
        headers = request.headers
        authorization = headers.get("authorization", "")
        self.asked.append(Asked(path, authorization, headers.get("range", "")))
        if self.token and authorization != f"Bearer {self.token}":
            self._send(request, 401, b"", {"X-Error-Code": "RepoNotFound"})
            return
        statuses = next((told for part, told in self.faults.items() if part in path and told), [])
        place = next((to for start, to in self.redirects.items() if path.startswith(start)), "")
        if statuses:
            self._send(request, statuses.pop(0), b"", {})
            return
        if place:
            self._send(request, 302, b"", {"Location": place})
            return
        data = self._found(path.strip("/").split("/"))
        if data is None:
            self._send(request, 404, b"", {"X-Error-Code": "RepoNotFound"})
        else:
            self._serve(request, data, is_blob="/blob/" in path or "/resolve/" in path)

    def _found(self, parts: list[str]) -> bytes | None:
        if parts[:3] == ["api", "v1", "model-versions"]:
            return _json(self.versions.get(parts[3]))
        if parts[:3] == ["api", "v1", "models"]:
            return _json(self.models.get(parts[3]))
        if parts[0] == "blob":
            return self.blobs.get(parts[1])
        if parts[:2] == ["api", "models"]:
            files = self.repos.get("/".join(parts[2:4]))
            if files is None:
                return None
            if parts[4:5] == ["tree"]:
                return _json([_entry(*item) for item in sorted(files.items())])
            return _json({"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": []})
        return self.repos.get("/".join(parts[:2]), {}).get("/".join(parts[4:]))

    def _serve(self, request: BaseHTTPRequestHandler, data: bytes, *, is_blob: bool) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        start = int(found[1]) if found else 0
        stop = min(int(found[2]) + 1, len(data)) if found and found[2] else len(data)
        part = data[start:stop]
        span = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"} if found else {}
        cut = self.cut_after if is_blob and len(part) > self.cut_after else 0
        self.cut_after = 0 if cut else self.cut_after
        self._send(request, 206 if found else 200, part, span, cut=cut)

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str],
        *,
        cut: int = 0,
    ) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body[:cut] if cut else body)
            request.close_connection = request.close_connection or bool(cut)


def _json(value: Any) -> bytes | None:
    return None if value is None else json.dumps(value).encode()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    sha1 = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": sha1}
    if len(data) >= _LARGE:
        sha = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": sha, "size": len(data), "pointerSize": 134}
    return entry


class Told:
    """Events, as they come."""

    def __init__(self) -> None:
        self.every: list[Telemetry] = []

    def emit(self, event: Telemetry) -> None:
        self.every.append(event)

    def stages(self) -> list[str]:
        return [str(one["stage"]) for one in self.payloads()]

    def payloads(self) -> list[dict[str, Any]]:
        return [
            dict(event.payload)
            for event in self.every
            if isinstance(event, Emitted) and event.type == "conversion.clone_progress"
        ]


class World:
    """Everything an import talks to."""

    def __init__(self, folder: Path) -> None:
        self.sites = Sites()
        self.elsewhere = Sites()
        """A host that files are kept at, and that is neither site."""
        self.folder = folder
        self.told = Told()
        self.hub = LocalHub(folder / "hub")
        listener = open_listener(TcpAddress("127.0.0.1", 0))
        self.hub_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = HttpServer(self.hub.app, listener, grace_s=0.1)
        self._loop = LoopThread("hub")
        self._serving = self._loop.wait(self._serve())
        policy = FilePolicy(job_dir=str(folder / "jobs"), download_backoff_s=0.01)
        self._files = WorkerFiles(policy, self.told)
        self._contexts: list[ConversionContext] = []
        self.providers = Providers(
            store=ContentStore(folder / "cas", reserve_bytes=0),
            settings=ModelSettings(hf_home=str(folder / "hf")),
            hf_endpoint=self.sites.url,
            civitai_endpoint=self.sites.url,
            trusted=[self.elsewhere.url],
        )

    async def _serve(self) -> asyncio.Task[None]:
        import asyncio

        is_ready = asyncio.Event()
        task = asyncio.create_task(self._server.serve(is_ready.set))
        await is_ready.wait()
        return task

    def close(self) -> None:
        async def stop() -> None:
            self._server.stop()
            await self._serving

        for context in self._contexts:
            run_blocking(context.release(is_over=True))
        self._files.close()
        self._loop.wait(stop())
        self._loop.close()
        self.hub.close()
        self.sites.close()
        self.elsewhere.close()

    def context(self, *, job_id: str = "", publish: str = "acme/model") -> ConversionContext:
        """Return the context of one more job, which may make and publish `acme/model`."""
        number = len(self._contexts) + 1
        request_id = f"r{number}"
        owner, _, name = publish.partition("/")
        token = self.hub.issue_capability(publish=[publish], create=(owner, [name]))
        scope = JobScope(
            base_url=self.hub_url,
            capability_token=token,
            owner=owner,
            job_id=job_id or f"job-{number}",
        )
        self._files.enter(request_id, scope)
        models: Any = None
        ports = Ports(
            files=self._files,
            events=self.told,
            models=models,
            publisher=HubPublisher(self._files),
            run=run_blocking,
        )
        context = ConversionContext(
            request_id, ports=ports, job_id=scope.job_id, destination={"ref": publish}
        )
        self._contexts.append(context)
        return context

    def client(self) -> HubClient:
        return HubClient(self.hub_url, self.hub.issue_token("admin"))

    def said(self, flavor: str) -> dict[str, Any]:
        """Return all that the hub says of a flavor of `acme/model:latest`."""
        with self.client() as client:
            reply = client.connection.call(
                "POST",
                "/api/v1/repos/acme/model/resolve",
                phase="resolve",
                body={"tag": "latest", "flavor": flavor},
            )
        assert isinstance(reply.data, dict), reply.text
        assert reply.status == 200, reply.text
        return reply.data

    def published(self, ref: str, folder: Path) -> dict[str, bytes]:
        """Return the files of a checkpoint, by path."""
        parsed = parse_ref(ref)
        assert isinstance(parsed, TensorhubRef)
        with self.client() as client:
            pull_folder(client, parsed, folder)
        every = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in every}


@contextmanager
def world(folder: Path) -> Iterator[World]:
    made = World(folder)
    try:
        yield made
    finally:
        made.close()
