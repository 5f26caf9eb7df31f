"""Uploads and revisions: routes 5 to 7 and 12."""

from __future__ import annotations

import asyncio
import os
import secrets
from typing import TYPE_CHECKING, Any

from gen_worker.models.hub.local.asgi import Answer, receive_file
from gen_worker.models.hub.local.names import check_repo
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.requests import CompleteBody, CreateBody, OpenBody
from gen_worker.models.hub.local.rooms import document
from gen_worker.models.hub.local.routing import Route
from gen_worker.models.hub.local.staging import part_name
from gen_worker.models.hub.local.uploads import Home

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.models.hub.local.asgi import Call
    from gen_worker.models.hub.local.database import Row
    from gen_worker.models.hub.local.rooms import Rooms
    from gen_worker.models.hub.local.s3_routes import S3Routes

__all__ = ["PublishRoutes"]

# The second name is what clients of 0.5 say.
_REVISIONS = "/api/v1/repos/{owner}/{repo}/revisions|upload-sessions"
_POLL_S = 1


class PublishRoutes:
    """Takes files and publications in."""

    def __init__(self, rooms: Rooms, s3: S3Routes) -> None:
        self._rooms = rooms
        self._s3 = s3

    def table(self) -> Sequence[Route]:
        one = f"{_REVISIONS}/{{revision}}"
        return (
            Route("POST", _REVISIONS, "write-repo", self.open),
            Route("GET", one, "write-repo", self.state),
            Route("DELETE", one, "write-repo", self.abort),
            Route("POST", f"{one}/finalize", "write-repo", self.finalize),
            *self._upload_routes(one, "write-repo"),
            *self._upload_routes("/api/v1/media/{owner}", "write"),
            *self._upload_routes("/api/v1/media", "write"),
            Route("PUT", "/upload/{upload}/{part}", "nothing", self.put_part, is_stream=True),
        )

    def _upload_routes(self, collection: str, needs: Any) -> Sequence[Route]:
        one = f"{collection}/uploads/{{upload}}"
        return (
            Route("POST", f"{collection}/uploads", needs, self.create),
            Route("GET", one, needs, self.upload_state),
            Route("DELETE", one, needs, self.abort_upload),
            Route("POST", f"{one}/complete", needs, self.complete),
        )

    def open(self, call: Call) -> Answer:
        body = call.read(OpenBody)
        return Answer(
            self._rooms.publications.open(call.params["owner"], call.params["repo"], body)
        )

    def state(self, call: Call) -> Answer:
        publications = self._rooms.publications
        return _described(publications.describe(publications.need(*_revision(call))), call, 200)

    def abort(self, call: Call) -> Answer:
        self._rooms.publications.abort(*_revision(call))
        return Answer({"state": "aborted"})

    def finalize(self, call: Call) -> Answer:
        rooms, (owner, name, revision) = self._rooms, _revision(call)
        principal = call.principal
        row = rooms.publications.begin(
            owner,
            name,
            revision,
            call.body,
            lambda digest: rooms.may_read_blob(principal, digest),
        )
        if row["state"] == "finalizing" and rooms.options.finalizes_later:
            rooms.work.submit(rooms.publications.commit_later, revision)
            return _described(rooms.publications.describe(row), call, 202)
        row = rooms.publications.commit(revision)
        if row["state"] == "failed":
            error = document(row["error"])
            raise Refusal(422, error["error"], error["message"])
        return Answer(
            {**document(row["answer"]), "state": "finalized", "finalize_status": "succeeded"}
        )

    def create(self, call: Call) -> Answer:
        rooms, home = self._rooms, _home(call)
        if home.revision:
            rooms.publications.need_open(home.owner, home.name, home.revision)
        body, principal = call.read(CreateBody), call.principal
        _check_file(call, home, body.path or body.ref)
        _check_budget(call, body)
        row = rooms.uploads.create(
            home, body, may_dedup=lambda digest: rooms.may_read_blob(principal, digest)
        )
        if row["state"] == "complete":
            return Answer({"dedup": True, "upload_id": row["id"], **document(row["answer"])})
        return Answer(self._ticket(call, row))

    def upload_state(self, call: Call) -> Answer:
        row = self._own_upload(call)
        if row["state"] == "complete":
            return Answer({"state": "complete", **document(row["answer"])})
        return Answer({"state": "open", **self._ticket(call, row)})

    def complete(self, call: Call) -> Answer:
        rooms, home = self._rooms, _home(call)
        row = self._own_upload(call)
        if home.revision and row["state"] != "complete":
            rooms.publications.need_open(home.owner, home.name, home.revision)
        return Answer(document(rooms.uploads.complete(row, call.read(CompleteBody))["answer"]))

    def abort_upload(self, call: Call) -> Answer:
        self._rooms.uploads.abort(self._own_upload(call))
        return Answer({"state": "aborted"})

    def _own_upload(self, call: Call) -> Row:
        """Return the upload that the path names, which the caller may send."""
        home = _home(call)
        row = self._rooms.uploads.need_in(home, call.params["upload"])
        _check_file(call, home, row["ref"])
        return row

    async def put_part(self, call: Call) -> Answer:
        """Take one part at its signed URL."""
        from blake3 import blake3

        rooms, upload, part = self._rooms, call.params["upload"], call.params["part"]
        problem = rooms.signer.problem(call.query, "part", upload, part)
        if problem is not None:
            raise Refusal(403, "url_refused", problem)
        number = int(part)  # signed by us
        row, folder = await asyncio.get_running_loop().run_in_executor(
            rooms.work, self._staging, upload
        )
        sizes = rooms.uploads.part_sizes(row)
        hasher = blake3()
        temporary = f"{folder}/.{secrets.token_hex(16)}"
        await keep(
            call,
            rooms,
            temporary,
            lambda: f"{folder}/{part_name(number, hasher.hexdigest()[:32])}",
            size_bytes=sizes[number - 1],
            hashers=(hasher,),
        )
        return Answer(status=200, headers={"etag": f'"{hasher.hexdigest()[:32]}"'})

    def _staging(self, upload: str) -> tuple[Row, str]:
        row = self._rooms.uploads.need_open(upload)
        return row, self._rooms.uploads.folder(row)

    def _ticket(self, call: Call, row: Row) -> dict[str, Any]:
        rooms, upload = self._rooms, row["id"]
        sizes = rooms.uploads.part_sizes(row)
        base, ttl_s = rooms.base_url(call), rooms.options.url_ttl_s
        urls = [
            f"{base}/upload/{upload}/{number}?"
            + rooms.signer.query("part", upload, str(number), ttl_s=ttl_s)
            for number in range(1, len(sizes) + 1)
        ]
        ticket: dict[str, Any] = {
            "upload_id": upload,
            "part_urls": urls,
            "part_size": rooms.options.part_bytes,
            "total_parts": len(urls),
            "parts": [
                {
                    "part_number": part.number,
                    "etag": f'"{part.etag}"',
                    "size_bytes": part.size_bytes,
                }
                for part in rooms.uploads.parts(row)
            ],
        }
        if rooms.options.offers_grants:
            ticket["transfer_grant"] = self._s3.grant(call, row)
        return ticket


async def keep(
    call: Call,
    rooms: Rooms,
    temporary: str,
    target: Any,
    *,
    size_bytes: int | None,
    hashers: tuple[Any, ...],
    **options: Any,
) -> None:
    """Receive a file under one name and give it another once it is there in full."""
    loop = asyncio.get_running_loop()
    max_bytes = rooms.options.max_file_bytes
    try:
        await receive_file(
            call,
            temporary,
            rooms.files,
            size_bytes=size_bytes,
            max_bytes=max_bytes,
            hashers=hashers,
            **options,
        )
        await loop.run_in_executor(rooms.files, os.replace, temporary, target())
    except FileNotFoundError as error:  # the upload was aborted, and its folder is gone
        raise Refusal(404, "upload_not_found", "the upload was aborted meanwhile") from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _revision(call: Call) -> tuple[str, str, str]:
    owner, name = check_repo(call.params["owner"], call.params["repo"])
    return owner, name, call.params["revision"]


def _home(call: Call) -> Home:
    params = call.params
    if "repo" in params:
        return Home("repo", *_revision(call))
    owner = params.get("owner") or call.headers.get("x-cozy-owner", "") or "local"
    return Home("media", check_repo(owner, "media")[0])


def _check_file(call: Call, home: Home, ref: str) -> None:
    """Let a token send only files that it may; those of repositories the route has checked."""
    if home.domain == "media":
        call.principal.check_file(home.owner, ref, "write")


def _described(state: dict[str, Any], call: Call, status: int) -> Answer:
    if state["state"] != "finalizing":
        return Answer(state)
    location = call.raw_path.removesuffix("/finalize")
    headers = {"location": location, "retry-after": str(_POLL_S)}
    return Answer(state | {"retry_after_seconds": _POLL_S}, status=status, headers=headers)


def _check_budget(call: Call, body: CreateBody) -> None:
    capability = call.principal.capability
    if capability is None:
        return
    limits = [capability.max_bytes_per_file, capability.max_total_bytes]
    limit = min((limit for limit in limits if limit), default=0)
    if limit and body.size_bytes > limit:
        raise Refusal(
            413, "budget_exceeded", f"the token allows {limit} bytes, not {body.size_bytes}"
        )
