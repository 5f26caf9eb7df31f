"""Uploads of whole files, sent from where they are: announced, sent, completed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from gen_worker.errors import ArtifactTransferError, OutputTooLargeError, ValidationError
from gen_worker.models.hub.connection import raise_for, segment
from gen_worker.models.hub.errors import PROVIDER, BudgetExceededError
from gen_worker.models.hub.progress import UploadProgress
from gen_worker.models.hub.wire import TransferGrant, Uploaded, UploadTicket
from gen_worker.models.store.durable import hash_file

if TYPE_CHECKING:
    from gen_worker.cancel import CancelToken
    from gen_worker.models.hub.capability import Capability
    from gen_worker.models.hub.connection import HubConnection, Reply

__all__ = ["MAX_FILE_BYTES", "FileFacts", "Tell", "Uploader", "file_facts"]

Tell: TypeAlias = Callable[[str, dict[str, Any]], object]
"""Gets an event's kind and payload."""

MAX_FILE_BYTES = 20 * 1024**3
_CREATE_TIMEOUT_S = 60.0
_COMPLETE_TIMEOUT_S = 600.0
_ABORT_TIMEOUT_S = 15.0
_ATTEMPTS = 5
_EXPIRED = frozenset({401, 403, 410})
_PLAIN = "application/octet-stream"


class FileFacts(NamedTuple):
    """A file that is to be sent."""

    path: str
    size_bytes: int
    blake3: str


def file_facts(path: str | os.PathLike[str]) -> FileFacts:
    """Measure and hash a file, on all cores.

    Raises:
        OutputTooLargeError: It has more than 20 GiB.
        ValidationError: It is no file that can be read.
    """
    try:
        size = os.stat(path).st_size
        if size > MAX_FILE_BYTES:
            raise OutputTooLargeError(size_bytes=size, max_bytes=MAX_FILE_BYTES)
        digest = hash_file(os.fspath(path))
    except OSError as error:
        raise ValidationError(f"cannot read {os.fspath(path)!r}: {error.strerror}") from error
    return FileFacts(os.fspath(path), size, digest)


class Uploader:
    """Sends files for one publication, or one request."""

    def __init__(
        self,
        connection: HubConnection,
        capability: Capability | None,
        *,
        tell: Tell | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self._connection = connection
        self._tell = tell
        self._cancel = cancel
        self._budget = _Budget(
            capability.max_total_bytes if capability else 0,
            capability.max_bytes_per_file if capability else 0,
        )

    def send(
        self,
        collection: str,
        path: str | os.PathLike[str],
        *,
        identity: tuple[str, str],
        extra: dict[str, str],
        facts: FileFacts | None = None,
    ) -> Uploaded:
        """Upload one file; bytes the hub has already are not sent.

        Args:
            collection: Path of what it belongs to, such as a revision.
            path: Of the file.
            identity: Name and value of what it is called there: `path` or `ref`.
            extra: Sent along where not empty.
            facts: Of the file, when they are known.

        Raises:
            HubAuthError: The token does not allow it.
            OutputTooLargeError: The file is larger than any hub takes.
            BudgetExceededError: It is larger than the token allows.
            ArtifactTransferError: It did not work; `phase` says where.
        """
        facts = facts or file_facts(path)
        with self._budget.holding(facts.size_bytes, self._cancel):
            body = {
                identity[0]: identity[1],
                "blake3": facts.blake3,
                "size_bytes": facts.size_bytes,
                **{key: value for key, value in extra.items() if value and value != _PLAIN},
            }
            return self._send_all(collection, body, identity[1], facts)

    def _send_all(
        self, collection: str, body: dict[str, Any], ref: str, facts: FileFacts
    ) -> Uploaded:
        """Send a file, with new URLs when old ones expire, for as long as that brings it on."""
        known_parts = -1
        while True:
            record = self._create(collection, body)
            if record.get("dedup") is True:
                return _uploaded(record, ref, facts, dedup=True)
            ticket = _ticket(record)
            is_last = len(ticket.parts) <= known_parts
            known_parts = len(ticket.parts)
            try:
                return self._transfer(collection, ticket, ref, facts)
            except ArtifactTransferError as error:
                if _has_expired(error) and not is_last:
                    continue
                # What is only interrupted stays, so that the next attempt goes on from there.
                if not error.retryable:
                    self._abort(_upload_path(collection, ticket))
                raise

    def _create(self, collection: str, body: dict[str, Any]) -> dict[str, Any]:
        # Safe to repeat: a hub that took the first one in has one more upload nobody completes.
        reply = self._connection.call(
            "POST",
            f"{collection}/uploads",
            phase="create",
            body=body,
            timeout_s=_CREATE_TIMEOUT_S,
            attempts=_ATTEMPTS,
            retry_429=False,
            cancel=self._cancel,
        )
        if reply.status == 404 and reply.code in ("", "route_not_found"):
            raise ArtifactTransferError(
                "uploads are not supported by this hub",
                provider=PROVIDER,
                phase="create",
                status_code=404,
            )
        raise_for(reply, "create")
        return reply.record("create")

    def _transfer(
        self, collection: str, ticket: UploadTicket, ref: str, facts: FileFacts
    ) -> Uploaded:
        progress = UploadProgress(self._tell, ref, facts.size_bytes, self._connection.clock)
        try:
            body = self._send_bytes(ticket, facts, progress)
            began = self._connection.clock.now()
            answer = self._complete(_upload_path(collection, ticket), body)
        except BaseException as error:
            progress.aborted(error)
            raise
        progress.finalized(self._connection.clock.now() - began)
        return _uploaded(answer, ref, facts, dedup=False)

    def _send_bytes(
        self, ticket: UploadTicket, facts: FileFacts, progress: UploadProgress
    ) -> dict[str, Any]:
        """Send the file, and return what completes the upload."""
        if ticket.part_urls:  # resumable, and needs no library; a grant is the second choice
            from gen_worker.models.hub.parts import send_parts

            sent = send_parts(
                ticket,
                facts,
                progress=progress,
                clock=self._connection.clock,
                cancel=self._cancel,
            )
            return {"parts": sent}
        if ticket.grant is None:
            raise ArtifactTransferError(
                "the hub offers neither part URLs nor a grant", provider=PROVIDER, phase="create"
            )
        from gen_worker.models.hub.grants import send_with_grant

        grant = TransferGrant.from_record(ticket.grant)
        send_with_grant(
            grant, facts, progress=progress, clock=self._connection.clock, cancel=self._cancel
        )
        transfer = {"mode": "s3_sdk", "bucket": grant.bucket, "key": grant.key}
        return {
            "transfer": {
                **transfer,
                "size_bytes": facts.size_bytes,
                "blake3": facts.blake3,
                "etag": "",
            }
        }

    def _complete(self, upload: str, body: dict[str, Any]) -> dict[str, Any]:
        reply: Reply = self._connection.call(
            "POST",
            f"{upload}/complete",
            phase="complete",
            body=body,
            timeout_s=_COMPLETE_TIMEOUT_S,
            attempts=_ATTEMPTS,
            retry_429=False,
            cancel=self._cancel,
        )
        raise_for(reply, "complete")
        return reply.record("complete")

    def _abort(self, upload: str) -> None:
        try:
            self._connection.call("DELETE", upload, phase="abort", timeout_s=_ABORT_TIMEOUT_S)
        except ArtifactTransferError:  # the hub drops it by itself in time
            return


def _upload_path(collection: str, ticket: UploadTicket) -> str:
    return f"{collection}/uploads/{segment(ticket.upload_id)}"


def _has_expired(error: ArtifactTransferError) -> bool:
    """Tell whether a part's URL is refused, which was good when the hub gave it."""
    return error.phase == "put" and error.status_code in _EXPIRED


class _Budget:
    """Holds uploads back while too many bytes are under way."""

    def __init__(self, total: int, per_file: int) -> None:
        self._total = total
        self._limits = [limit for limit in (total, per_file) if limit]
        self._held = 0
        self._changed = threading.Condition()

    def holding(self, size_bytes: int, cancel: CancelToken | None) -> _Holding:
        if self._limits and size_bytes > min(self._limits):
            raise BudgetExceededError(
                f"a file has {size_bytes} bytes, the token allows {min(self._limits)}",
                size_bytes=size_bytes,
                max_bytes=min(self._limits),
            )
        with self._changed:
            while self._total and self._held + size_bytes > self._total:
                self._changed.wait(0.1)
                if cancel is not None:
                    cancel.raise_if_canceled()
            self._held += size_bytes
        return _Holding(self, size_bytes)

    def release(self, size_bytes: int) -> None:
        with self._changed:
            self._held -= size_bytes
            self._changed.notify_all()


class _Holding:
    """A part of the budget, given back at the end of the block."""

    def __init__(self, budget: _Budget, size_bytes: int) -> None:
        self._budget = budget
        self._size_bytes = size_bytes

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None:
        self._budget.release(self._size_bytes)


def _ticket(record: dict[str, Any]) -> UploadTicket:
    try:
        ticket = msgspec.convert(record, UploadTicket)
    except msgspec.ValidationError as error:
        raise ArtifactTransferError(
            f"the hub's answer describes no upload: {error}", provider=PROVIDER, phase="create"
        ) from error
    if not ticket.upload_id:
        raise ArtifactTransferError(
            "the hub's answer has no upload_id", provider=PROVIDER, phase="create"
        )
    return ticket


def _uploaded(record: dict[str, Any], ref: str, facts: FileFacts, *, dedup: bool) -> Uploaded:
    """Return what the hub says of the file; what it leaves out is known here."""
    names = Uploaded.__struct_fields__
    told = {name: record[name] for name in names if isinstance(record.get(name), str | int)}
    known = {"ref": ref, "size_bytes": facts.size_bytes, "blake3": facts.blake3}
    answered = told.get("blake3") or facts.blake3
    if answered != facts.blake3:
        raise ArtifactTransferError(
            f"{ref!r} arrived with the BLAKE3 {answered!r:.80}, {facts.blake3} was sent",
            provider=PROVIDER,
            phase="complete",
        )
    try:
        return msgspec.convert({**known, **told, "dedup": dedup}, Uploaded)
    except msgspec.ValidationError as error:
        raise ArtifactTransferError(
            f"the hub's answer describes no file: {error}", provider=PROVIDER, phase="complete"
        ) from error
