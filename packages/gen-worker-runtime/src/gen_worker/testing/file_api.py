"""The hub's file routes over a plain folder: inputs are read from it, outputs land in it."""

from __future__ import annotations

import asyncio
import mimetypes
import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import file_digest
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.models.hub import LocalHub
from gen_worker.models.hub.local.asgi import Call, FileAnswer, send_file
from gen_worker.paths import safe_join
from gen_worker.runtime.http import HttpServer, open_listener
from gen_worker.runtime.ndjson.address import TcpAddress
from gen_worker.runtime.scheduler.addresses import is_wildcard, own_address_towards, url_with_host

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from gen_worker.models.hub.local.asgi import Message, Receive, Send

__all__ = ["FileApi"]

_FILES = "/api/v1/file/"
_RECORDS = ".hub"


class FileApi:
    """A local hub whose files are those of a folder, by their path there.

    Uploads go through the hub, in parts and checked, and are then in the folder under their ref.
    """

    def __init__(self, directory: str, listen: str) -> None:
        """Begin to listen.

        Args:
            directory: Made if need be; what the hub itself has to keep is in `.hub` there.
            listen: `host:port`; port 0 takes a free one.

        Raises:
            ListenError: The address is taken or wrong.
        """
        host, _, port = listen.rpartition(":")
        self._listener = open_listener(TcpAddress(host or "127.0.0.1", int(port)))
        self._directory = os.path.abspath(directory)
        self._hub = LocalHub(os.path.join(self._directory, _RECORDS), anonymous=("admin",))
        self._threads = ThreadPoolExecutor(4, "file-api")
        self._server = HttpServer(self, self._listener, grace_s=1.0)
        self._serving: asyncio.Task[None] | None = None
        self.token = self._hub.issue_token("admin")
        """Good for everything; callers without one are served as well."""

    def url_for(self, peer: str) -> str:
        """Return the base URL under which a gRPC peer of this machine's reaches the files."""
        host, port = self._listener.getsockname()[:2]
        return url_with_host(own_address_towards(peer) if is_wildcard(host) else host, port)

    async def __aenter__(self) -> Self:
        is_ready = asyncio.Event()
        self._serving = asyncio.create_task(self._server.serve(is_ready.set))
        await is_ready.wait()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._serving is not None
        self._server.stop()
        await self._serving
        self._threads.shutdown()
        self._hub.close()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if scope["method"] in ("GET", "HEAD") and path.startswith(_FILES):
            file = self._file(path.removeprefix(_FILES))
            if file is not None:
                await self._send(file, Call(scope, receive), send)
                return
        if scope["method"] == "POST" and "/uploads" in path:
            await self._upload(scope, receive, send)
        else:
            await self._hub.app(scope, receive, send)

    def _file(self, ref: str) -> str | None:
        """Return the path of a file of the folder."""
        try:
            path = safe_join(self._directory, ref)
        except ValidationError:
            return None
        return path if os.path.isfile(path) and not ref.startswith(_RECORDS) else None

    async def _send(self, path: str, call: Call, send: Send) -> None:
        mime_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
        digest = await asyncio.get_running_loop().run_in_executor(self._threads, _sha256, path)
        headers = {
            "x-cozy-sha256": digest,
            "x-cozy-size-bytes": str(os.path.getsize(path)),
            "x-cozy-mime-type": mime_type,
        }
        answer = FileAnswer(path, etag=digest, content_type=mime_type, headers=headers)
        await send_file(call, answer, send, self._threads)

    async def _upload(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Let the hub answer, and put what is complete then into the folder before it is said."""
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        await self._hub.app(scope, receive, keep)
        body = b"".join(message.get("body", b"") for message in answer)
        meta = msgspec.json.decode(body, type=dict[str, Any]) if body else {}
        if answer[0]["status"] < 300 and "sha256" in meta:
            await self._store(str(meta["ref"]))
        for message in answer:
            await send(message)

    async def _store(self, ref: str) -> None:
        """Copy what the hub has under a ref into the folder."""
        path = safe_join(self._directory, ref)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        scope = {
            "type": "http",
            "method": "GET",
            "path": _FILES + ref,
            "raw_path": (_FILES + quote(ref)).encode(),
            "query_string": b"",
            "headers": [],
        }
        temporary = f"{path}.{os.urandom(4).hex()}.tmp"
        with open(temporary, "xb") as file:

            async def write(message: Message) -> None:
                file.write(message.get("body", b""))

            await self._hub.app(scope, _no_body(), write)
        os.replace(temporary, path)


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _no_body() -> Receive:
    """Return what a client does that sends no body and never leaves."""
    messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Message:
        message = next(messages, None)
        if message is None:
            await asyncio.Event().wait()
        assert message is not None, "nobody sets the event"
        return message

    return receive
