"""Releases: published by upload, listed, shown, deleted."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gen_worker.models.hub.local.asgi import Answer, receive_file
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.credentials import DEPLOY, SEE_RELEASES, WORKER
from gen_worker.runtime.http.openapi import in_query, operation
from gen_worker.runtime.http.table import HttpRoute
from gen_worker.runtime.scheduler.api.access import owner_to_change, owner_to_see
from gen_worker.runtime.scheduler.api.tag_routes import change_row
from gen_worker.runtime.scheduler.api.unpacking import unpack
from gen_worker.runtime.scheduler.api.values import (
    SCHEMAS,
    PublishedRow,
    ReleaseList,
    ReleaseRow,
    schema_of,
)
from gen_worker.runtime.scheduler.releases import (
    RefusedReleaseError,
    ReleaseInUseError,
    ReleaseLimits,
    ReleaseWriteError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.runtime.http.table import HttpCall, Operation
    from gen_worker.runtime.scheduler.api.shelf import Shelf
    from gen_worker.runtime.scheduler.releases import Published, ReleaseRecord

__all__ = ["ReleaseRoutes"]

_ONE = "/v1/releases/{owner}/{endpoint}/{release_id}"
_ENVIRONMENT = re.compile(r"(?a)[\w][\w .+-]{0,127}")
_AT_ONCE = 2
_MAX_BY_CHARS = 200
_MAX_TAR_BYTES = 1280 * 1024**2
"""Of an upload: what a release may have, and the headers of its files."""
_SHOWN = 100


class ReleaseRoutes:
    """`/v1/releases`."""

    def __init__(self, shelf: Shelf, uploads: str, limits: ReleaseLimits | None = None) -> None:
        """Publish releases.

        Args:
            shelf: Them.
            uploads: A folder for what is on its way; whatever is in it is removed.
            limits: How large a release may be.
        """
        shutil.rmtree(uploads, ignore_errors=True)
        self._shelf = shelf
        self._uploads = uploads
        self._limits = limits or ReleaseLimits()
        self._executor = ThreadPoolExecutor(_AT_ONCE, "gen-worker-uploads")
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def close(self) -> None:
        """Let go of the threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def table(self) -> Iterator[HttpRoute]:
        for methods, path, needs, handler, described in (
            ("POST", "/v1/releases", DEPLOY, self.publish, _PUBLISH),
            ("GET HEAD", "/v1/releases", SEE_RELEASES, self.list, _LIST),
            ("GET HEAD", _ONE, SEE_RELEASES, self.show, _SHOW),
            ("DELETE", _ONE, DEPLOY, self.delete, _DELETE),
        ):
            yield HttpRoute(methods, path, needs, handler, True, described, SCHEMAS)

    async def list(self, call: HttpCall) -> Answer:
        owner = owner_to_see(call.caller, call.query.get("owner"))
        tags = await self._shelf.tags()
        found = await self._shelf.releases(owner, call.query.get("endpoint") or None)
        return Answer(ReleaseList(releases=[_row(one, tags_of(tags, one)) for one in found]))

    async def show(self, call: HttpCall) -> Answer:
        names = call.params
        owner_to_see(call.caller, names["owner"])
        release = await self._shelf.one(names["owner"], names["endpoint"], names["release_id"])
        fields = _fields(release, tags_of(await self._shelf.tags(), release))
        if call.caller.may(WORKER):
            stored = await self._shelf.stored(release.release_id)
            fields |= {"source": stored.source, "lock": stored.lock}
        return Answer(ReleaseRow(**fields))

    async def delete(self, call: HttpCall) -> Answer:
        names = call.params
        owner = owner_to_change(call.caller, names["owner"], None)
        try:
            await self._shelf.all.delete(owner, names["endpoint"], names["release_id"])
        except ReleaseInUseError as error:
            raise Refusal(409, error.code, str(error)) from error
        return Answer({"release_id": names["release_id"], "deleted": True})

    # -- by upload ---------------------------------------------------------------------------------

    async def publish(self, call: HttpCall) -> Answer:
        owner = owner_to_change(call.caller, call.query.get("owner", ""), self._shelf.default_owner)
        environment = call.query.get("environment") or "default"
        if _ENVIRONMENT.fullmatch(environment) is None:
            raise Refusal(400, "invalid_environment", f"{environment!r:.200} names no environment")
        by = call.caller.name or call.query.get("by", "")
        if len(by) > _MAX_BY_CHARS:
            raise Refusal(400, "invalid_by", f"`by` has at most {_MAX_BY_CHARS} characters")
        async with self._turns:  # the others' bodies wait where they are
            loop = asyncio.get_running_loop()
            with _writing():
                folder = await loop.run_in_executor(self._executor, self._new_folder)
            try:
                with _writing():
                    lock = await self._receive(call, folder)
                published = await self._published(call, folder, lock, owner, environment, by)
            finally:
                await loop.run_in_executor(self._executor, _remove, folder)
        tags = tags_of(await self._shelf.tags(), published.record)
        row = PublishedRow(
            **_fields(published.record, tags),
            is_new=published.is_new,
            change=None if published.change is None else change_row(published.change),
        )
        return Answer(row, status=201 if published.is_new else 200)

    def _new_folder(self) -> str:
        os.makedirs(self._uploads, mode=0o700, exist_ok=True)
        folder = tempfile.mkdtemp(dir=self._uploads)
        os.mkdir(f"{folder}/project")
        return folder

    async def _receive(self, call: HttpCall, folder: str) -> bytes:
        length = call.headers.get("content-length", "")
        size = int(length) if length.isascii() and length.isdecimal() else None
        most = min(_MAX_TAR_BYTES, 2 * self._limits.max_bytes)
        if size is not None and size > most:
            raise Refusal(413, "body_too_large", f"the body has more than {most} bytes")
        path, executor = f"{folder}/body", self._executor
        await receive_file(call, path, executor, size_bytes=size, max_bytes=most, hashers=())
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, unpack, path, f"{folder}/project", self._limits)

    async def _published(
        self, call: HttpCall, folder: str, lock: bytes, owner: str, environment: str, by: str
    ) -> Published:
        try:
            return await self._shelf.all.publish(
                f"{folder}/project",
                lock=lock,
                environment=environment,
                owner=owner,
                endpoint=call.query.get("endpoint", ""),
                by=by,
                first_tag=call.query.get("tag", ""),
            )
        except RefusedReleaseError as error:
            problems = [problem.replace(folder, "") for problem in error.problems[:_SHOWN]]
            raise Refusal(
                400,
                error.code,
                f"the project cannot be published: {problems[0]}",
                problems=problems,
            ) from error


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refusal(507, "disk_full", "the disk for releases is full") from error
        raise ReleaseWriteError(f"the release cannot be kept: {error.strerror}") from error


def tags_of(
    tags: dict[tuple[str, str, str], tuple[str, ...]], release: ReleaseRecord
) -> tuple[str, ...]:
    """Return the tags that lead to a release."""
    return tags.get((release.owner, release.endpoint, release.release_id), ())


def _fields(release: ReleaseRecord, tags: tuple[str, ...]) -> dict[str, Any]:
    fields = release._asdict() | {"tags": tags}
    del fields["number"]
    return fields


def _row(release: ReleaseRecord, tags: tuple[str, ...]) -> ReleaseRow:
    return ReleaseRow(**_fields(release, tags))


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)


_TEXT = {"type": "string"}
_OF = [in_query("owner", _TEXT), in_query("endpoint", _TEXT)]
_LIST = operation("list-releases", "releases", answer=schema_of(ReleaseList), parameters=_OF)
_SHOW = operation("show-release", "one release", answer=schema_of(ReleaseRow))
_DELETE = operation("delete-release", "delete a release that no tag and no request needs")
_PUBLISH: Operation = {
    **operation(
        "publish-release",
        "make a release of a project: 201, or 200 where the endpoint has the same one",
        "201",
        answer=schema_of(PublishedRow),
        parameters=[
            *_OF,
            *(in_query(name, _TEXT) for name in ("environment", "tag", "by")),
        ],
    ),
    "description": "The body is a tar file of the project, perhaps with gzip, with its lock as "
    "`.tensorhub/endpoint.lock`. `tag` is set if the release is the endpoint's first. "
    "`by` says who publishes, where a token does not.",
    "requestBody": {"required": True, "content": {"application/x-tar": {}}},
}
