"""The hub as an ASGI application: from a request to a route, its permission and its answer."""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import TYPE_CHECKING, Any

from gen_worker.models.hub.local.admin_routes import AdminRoutes
from gen_worker.models.hub.local.asgi import (
    Answer,
    Call,
    FileAnswer,
    read_body,
    send_answer,
    send_file,
)
from gen_worker.models.hub.local.blob_routes import BlobRoutes
from gen_worker.models.hub.local.dataset_routes import DatasetRoutes
from gen_worker.models.hub.local.model_routes import ModelRoutes
from gen_worker.models.hub.local.names import check_repo
from gen_worker.models.hub.local.publish_routes import PublishRoutes
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.routing import Router
from gen_worker.models.hub.local.s3_routes import S3Routes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.models.hub.local.asgi import Receive, Send
    from gen_worker.models.hub.local.rooms import Rooms
    from gen_worker.models.hub.local.routing import Route

__all__ = ["HubApp"]

_log = logging.getLogger("gen_worker.models.hub")


class HubApp:
    """A plain ASGI callable."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        s3 = S3Routes(rooms)
        parts = (
            ModelRoutes(rooms),
            PublishRoutes(rooms, s3),
            BlobRoutes(rooms),
            DatasetRoutes(rooms),
            AdminRoutes(rooms),
            s3,
        )
        self._router = Router(route for part in parts for route in part.table())

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"the hub speaks HTTP only, not {scope['type']!r}")
        try:
            call = Call(scope, receive)
        except Refusal as refusal:
            await send_answer(_refused(refusal), send, with_body=scope["method"] != "HEAD")
            return
        answer = await self._answer(call)
        if isinstance(answer, FileAnswer):
            try:
                await send_file(call, answer, send, self._rooms.files)
                return
            except FileNotFoundError:  # collected since it was looked for; nothing was sent yet
                answer = _refused(Refusal(404, "blob_not_found", "the file is gone"))
        await send_answer(answer, send, with_body=call.method != "HEAD")

    async def _answer(self, call: Call) -> Answer | FileAnswer:
        try:
            route, call.params = self._router.find(call.method, call.segments)
            if route.is_stream:
                found: Answer | FileAnswer = await route.handler(call)
                return found
            await read_body(call, self._rooms.options.max_body_bytes)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._rooms.work, self._handle, route, call)
        except Refusal as refusal:
            return _refused(refusal)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                return self._failed(call)
            return Answer({"error": "disk_full", "message": "the hub's disk is full"}, status=507)
        except Exception:  # of one request; the server goes on, and the client may try again
            return self._failed(call)

    def _failed(self, call: Call) -> Answer:
        _log.exception("%s %s failed", call.method, call.raw_path)
        return Answer(
            {"error": "internal", "message": "the hub failed; its log says why"}, status=500
        )

    def _handle(self, route: Route, call: Call) -> Answer | FileAnswer:
        if route.needs != "nothing":
            self._admit(route, call)
        answer: Answer | FileAnswer = route.handler(call)
        return answer

    def _admit(self, route: Route, call: Call) -> None:
        """Refuse what the caller's token does not allow."""
        principal = self._rooms.tokens.principal(call.headers.get("authorization", ""))
        if principal.is_anonymous and call.method != "GET" and "origin" in call.headers:
            raise Refusal(403, "forbidden", "a web page of another origin needs a token")
        call.principal = principal
        params = call.params
        if "repo" in params:
            params["owner"], params["repo"] = check_repo(params["owner"], params["repo"])
        if self._is_allowed(route, call):
            return
        if principal.is_anonymous:
            raise Refusal(
                401,
                "unauthorized",
                "a token is needed: send 'Authorization: Bearer <token>'",
            )
        raise Refusal(403, "forbidden", "the token does not allow this")

    def _is_allowed(self, route: Route, call: Call) -> bool:
        principal, params = call.principal, call.params
        match route.needs:
            case "read-repo":
                return principal.may_read(params["owner"], params["repo"])
            case "write-repo":
                exists = self._rooms.catalog.repo(params["owner"], params["repo"]) is not None
                return principal.may_write(params["owner"], params["repo"], exists=exists)
            case "admin":
                return principal.may("admin")
            case needs:
                # What belongs to no repository is open to every job's token.
                return principal.may(needs) or principal.capability is not None


def _refused(refusal: Refusal) -> Answer:
    headers = {"www-authenticate": "Bearer"} if refusal.status == 401 else {}
    if refusal.allow:
        headers["allow"] = refusal.allow
    return Answer(refusal.to_dict(), status=refusal.status, headers=headers)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
