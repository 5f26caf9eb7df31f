"""Everything but the calls themselves: files, models, facts about this host."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import msgspec

from gen_worker.errors import WorkerError, classify
from gen_worker.models.hub.local.asgi import Answer, FileAnswer, receive_file
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http import openapi
from gen_worker.runtime.http.credentials import ADMIN, ANY, INVOKE, INVOKE_OR_READ, READ
from gen_worker.runtime.http.openapi import openapi_of
from gen_worker.runtime.http.table import HttpRoute
from gen_worker.version import sdk_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor

    from gen_worker.models.hub.local.asgi import Call
    from gen_worker.runtime.http.backend import Backend, FileRoom, ModelRoom
    from gen_worker.runtime.http.table import HttpCall

__all__ = ["FactRoutes", "FileRoutes", "ModelRoutes"]

T = TypeVar("T")

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_SANDBOX = {
    # What an author's function wrote is nobody's web page.
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox; default-src 'none'",
    "cache-control": "no-cache",
}


class FactRoutes:
    """What this host serves and how it is."""

    def __init__(
        self,
        backend: Backend,
        routes: Callable[[], Sequence[HttpRoute]],
        is_draining: Callable[[], bool],
    ) -> None:
        self._backend = backend
        self._routes = routes
        self._is_draining = is_draining
        self._started_at = time.time()

    def table(self) -> Iterator[HttpRoute]:
        for path, needs, handler, described in (
            ("/healthz", (), self.health, openapi.HEALTH),
            ("/readyz", (), self.readiness, openapi.READINESS),
            ("/metrics", READ, self.metrics, openapi.METRICS),
            ("/openapi.json", ANY, self.document, None),
            ("/v1/functions", ANY, self.functions, openapi.LIST_FUNCTIONS),
            ("/v1/status", READ, self.status, openapi.STATUS),
        ):
            yield HttpRoute("GET HEAD", path, needs, handler, is_stream=True, operation=described)

    async def health(self, _call: Call) -> Answer:
        broken = list(self._backend.health().broken)
        return Answer({"ok": not broken, "reasons": broken}, status=503 if broken else 200)

    async def readiness(self, _call: Call) -> Answer:
        health = self._backend.health()
        reasons = [*health.broken, *health.unready, *(["draining"] if self._is_draining() else [])]
        headers = {"retry-after": "1"} if reasons else {}
        status = 503 if reasons else 200
        return Answer({"ready": not reasons, "reasons": reasons}, status=status, headers=headers)

    async def metrics(self, _call: Call) -> Answer:
        return Answer(self._backend.metrics(), content_type=_PROMETHEUS)

    async def document(self, _call: Call) -> Answer:
        return Answer(openapi_of(await self._backend.functions(), self._routes()))

    async def functions(self, _call: Call) -> Answer:
        return Answer({"functions": await self._backend.functions()})

    async def status(self, _call: Call) -> Answer:
        backend = self._backend
        models = backend.models
        return Answer(
            {
                "ok": True,
                "functions": sorted(served.name for served in await backend.functions()),
                "model_cache": {} if models is None else models.statistics(),
                "gen_worker_version": sdk_version(),
                "started_at": self._started_at,
                "draining": self._is_draining(),
                **backend.status(),
            }
        )


class FileRoutes:
    """Files in, for payloads to refer to; outputs out."""

    def __init__(self, room: FileRoom, executor: Executor, max_bytes: int) -> None:
        self._room = room
        self._executor = executor
        self._max_bytes = max_bytes

    def table(self) -> Iterator[HttpRoute]:
        path, look = "/v1/files", INVOKE_OR_READ
        upload = HttpRoute("POST", path, INVOKE, self.upload, is_stream=True)
        yield upload._replace(operation=openapi.UPLOAD_FILE)
        download = HttpRoute("GET HEAD", f"{path}/{{ref*}}", look, self.download, is_stream=True)
        yield download._replace(operation=openapi.DOWNLOAD_FILE)

    async def upload(self, call: HttpCall) -> Answer:
        length = call.headers.get("content-length", "")
        size = int(length) if length.isascii() and length.isdecimal() else None
        if size is not None and size > self._max_bytes:
            raise Refusal(413, "body_too_large", f"the body has more than {self._max_bytes} bytes")
        name = call.query.get("name", "file")
        file = await self._away(self._room.new_upload, name, call.caller.owner)
        try:
            total = await receive_file(
                call,
                file.path,
                self._executor,
                size_bytes=size,
                max_bytes=self._max_bytes,
                hashers=(),
            )
            await self._away(file.keep)
        except BaseException as error:
            await self._away(file.discard)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Refusal(507, "disk_full", "the disk for files is full") from error
            raise
        location = {"location": f"/v1/files/{quote(file.ref)}"}
        return Answer({"ref": file.ref, "size_bytes": total}, status=201, headers=location)

    async def download(self, call: HttpCall) -> FileAnswer:
        return await self._away(self._found, call.params["ref"], call.caller.owner)

    def _found(self, ref: str, owner: str | None) -> FileAnswer:
        import mimetypes  # its table is read at first use

        file = self._room.find(ref, owner)
        status = os.stat(file.path)
        state = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
        kind = file.mime_type or mimetypes.guess_type(ref)[0] or "application/octet-stream"
        return FileAnswer(file.path, etag=file.etag or state, content_type=kind, headers=_SANDBOX)

    async def _away(self, function: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *arguments)


class _Model(msgspec.Struct, frozen=True):
    ref: str = ""
    model_ref: str = ""
    model_id: str = ""
    dtypes: tuple[str, ...] = ()
    file_type: str = ""

    @property
    def name(self) -> str:
        return self.ref or self.model_ref or self.model_id


class _Models(msgspec.Struct, frozen=True):
    models: tuple[_Model | str, ...] = ()


class _ModelId(msgspec.Struct, frozen=True):
    model_id: str = ""


class ModelRoutes:
    """What is kept of models here. Runs in threads: loading blocks."""

    def __init__(self, room: ModelRoom) -> None:
        self._room = room

    def table(self) -> Iterator[HttpRoute]:
        for methods, name, needs, handler, described in (
            ("GET HEAD", "status", READ, self.status, openapi.MODELS_STATUS),
            ("POST", "prefetch", ADMIN, self.prefetch, openapi.PREFETCH_MODELS),
            ("POST", "load", ADMIN, self.load, openapi.LOAD_MODEL),
            ("POST", "unload", ADMIN, self.unload, openapi.UNLOAD_MODEL),
        ):
            yield HttpRoute(methods, f"/v1/models/{name}", needs, handler, operation=described)

    def status(self, _call: Call) -> Answer:
        return Answer({"ok": True, "model_cache": self._room.statistics()})

    def prefetch(self, call: Call) -> Answer:
        wanted = [
            model if isinstance(model, _Model) else _Model(ref=model)
            for model in call.read(_Models).models
        ]
        if not wanted or not all(model.name for model in wanted):
            raise Refusal(400, "missing_models", "say which: `models` with a `ref` each")
        return Answer({"results": [self._fetched(model) for model in wanted]})

    def _fetched(self, model: _Model) -> dict[str, Any]:
        began = time.perf_counter()
        result: dict[str, Any] = {"model_id": model.name, "ok": True}
        try:
            self._room.prefetch(model.name, model.dtypes)
        except WorkerError as error:
            failure = classify(error, origin="input")
            result |= {"ok": False, "error_type": failure.error_type, "error": failure.message}
        result["duration_ms"] = round((time.perf_counter() - began) * 1e3, 3)
        return result

    def load(self, call: Call) -> Answer:
        return self._done(call, self._room.load)

    def unload(self, call: Call) -> Answer:
        return self._done(call, self._room.unload)

    def _done(self, call: Call, act: Callable[[str], object]) -> Answer:
        model_id = call.read(_ModelId).model_id
        if not model_id:
            raise Refusal(400, "missing_model_id", "say which: `model_id`")
        try:
            found = act(model_id)
        except WorkerError as error:
            return Answer({"ok": False, "error_message": classify(error, origin="input").message})
        text = f"the model {model_id!r} is not loaded" if found is False else None
        return Answer({"ok": text is None, "error_message": text})
