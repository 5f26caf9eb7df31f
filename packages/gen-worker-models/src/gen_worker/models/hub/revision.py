"""One publication to a repository: files go up, then all of it is published at once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gen_worker.errors import ArtifactTransferError, ValidationError
from gen_worker.models.hub.connection import raise_for, segment
from gen_worker.models.hub.errors import PROVIDER, HubRequestError, HubUnreachableError
from gen_worker.models.hub.uploading import Uploader
from gen_worker.models.hub.wire import FinalizeRequest, TagAssignment, check_tags

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.models.hub.client import HubClient
    from gen_worker.models.hub.connection import Reply
    from gen_worker.models.hub.uploading import FileFacts, Tell
    from gen_worker.models.hub.wire import FlavorPublication, Uploaded

__all__ = ["Revision"]

_OPEN_TIMEOUT_S = 30.0
_FINALIZE_TIMEOUT_S = 600.0
_ABORT_TIMEOUT_S = 15.0
_POLL_FIRST_S = 1.0
_POLL_GROWTH = 1.6
_POLL_MAX_S = 10.0
_POLL_JITTER_S = 0.25
_FINALIZE_MAX_S = 30 * 60.0


class Revision:
    """An open revision. As a context manager it is aborted when the block fails.

    Threads may upload at the same time.
    """

    def __init__(
        self,
        client: HubClient,
        owner: str,
        repo: str,
        revision_id: str,
        *,
        request_id: str = "",
        tell: Tell | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self.owner = owner
        self.repo = repo
        self.revision_id = revision_id
        self._connection = client.connection
        self._request_id = request_id
        self._cancel = cancel
        self._uploader = Uploader(client.connection, client.capability, tell=tell, cancel=cancel)
        self._path = f"{_revisions(owner, repo)}/{segment(revision_id)}"
        self._lock = threading.Lock()
        self._is_closed = False

    @classmethod
    def open(
        cls,
        client: HubClient,
        owner: str,
        repo: str,
        facts: Mapping[str, str],
        *,
        request_id: str,
        tell: Tell | None,
        cancel: CancelToken | None,
    ) -> Revision:
        """Begin one; `HubClient.open_revision` says how."""
        reply = client.connection.ask(
            "POST",
            _revisions(owner, repo),
            phase="create",
            body={name: value for name, value in facts.items() if value},
            timeout_s=_OPEN_TIMEOUT_S,
            attempts=3,
            cancel=cancel,
        )
        revision_id = reply.record("create").get("session_id")
        if not isinstance(revision_id, str) or not revision_id:
            raise ArtifactTransferError(
                "the hub's answer has no session_id", provider=PROVIDER, phase="create"
            )
        return cls(
            client, owner, repo, revision_id, request_id=request_id, tell=tell, cancel=cancel
        )

    def __enter__(self) -> Revision:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.abort()

    @property
    def is_closed(self) -> bool:
        """Whether it was finalized or aborted."""
        return self._is_closed

    def upload(
        self,
        path: str | os.PathLike[str],
        ref: str,
        *,
        content_type: str = "",
        facts: FileFacts | None = None,
    ) -> Uploaded:
        """Upload a file; what it is called here need not be its path in the manifest."""
        return self._uploader.send(
            self._path,
            path,
            identity=("path", ref),
            extra={"request_id": self._request_id, "content_type": content_type},
            facts=facts,
        )

    def finalize(
        self,
        flavors: Sequence[FlavorPublication],
        *,
        tags: Iterable[str] = (),
        default_flavor: str = "",
        auto_create_external_parent: bool = True,
    ) -> tuple[str, ...]:
        """Publish the files that were uploaded: checkpoints and tags at once, or nothing.

        Args:
            flavors: The checkpoints.
            tags: Moved to this publication; `latest` moves by itself.
            default_flavor: What a tag without a flavor means; the first one's unless given.
            auto_create_external_parent: Whether parents the hub does not know are fine.

        Returns:
            The checkpoint ids, in the order of `flavors`.

        Raises:
            ValidationError: A tag is none, or there is nothing to publish.
            HubAuthError: The token does not allow it.
            ArtifactTransferError: The hub refuses, or did not finish within 30 minutes.
        """
        if not flavors:
            raise ValidationError("there is nothing to publish: give at least one flavor")
        default = default_flavor or flavors[0].flavor
        request = FinalizeRequest(
            tags=tuple(TagAssignment(tag=tag, default_flavor=default) for tag in check_tags(tags)),
            checkpoint_flavors=tuple(flavors),
            auto_create_external_parent=auto_create_external_parent,
        )
        deadline = self._connection.clock.now() + _FINALIZE_MAX_S
        reply = self._post(request, deadline)
        result = self._poll(reply, deadline) if reply.status == 202 else reply.record("finalize")
        ids = _checkpoint_ids(result, len(flavors))
        self._is_closed = True
        return ids

    def state(self) -> dict[str, Any]:
        """Return what the hub says of the revision."""
        return self._connection.ask("GET", self._path, phase="finalize").record("finalize")

    def abort(self) -> None:
        """Give the revision up, unless it is published; a hub that is gone does so by itself."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        try:
            self._connection.call("DELETE", self._path, phase="abort", timeout_s=_ABORT_TIMEOUT_S)
        except ArtifactTransferError:
            return

    def _post(self, request: FinalizeRequest, deadline: float) -> Reply:
        """Send the finalize until something other than a failure comes back; it is idempotent."""
        delay_s = _POLL_FIRST_S
        while True:
            try:
                reply = self._connection.call(
                    "POST",
                    f"{self._path}/finalize",
                    phase="finalize",
                    body=request,
                    timeout_s=_FINALIZE_TIMEOUT_S,
                    cancel=self._cancel,
                )
                if reply.status < 500:
                    raise_for(reply, "finalize")
                    return reply
                failure: ArtifactTransferError = HubRequestError(
                    f"the hub fails to publish: {reply.message}",
                    phase="finalize",
                    status_code=reply.status,
                    retryable=True,
                )
            except HubUnreachableError as error:
                failure = error
            delay_s = self._pause(delay_s, None, deadline, failure)

    def _poll(self, reply: Reply, deadline: float) -> dict[str, Any]:
        location, delay_s = self._location(reply), _POLL_FIRST_S
        failure = ArtifactTransferError(
            "the hub did not finish publishing in time",
            provider=PROVIDER,
            phase="finalize",
            retryable=True,
        )
        while True:
            delay_s = self._pause(delay_s, _retry_after_s(reply), deadline, failure)
            try:
                reply = self._connection.call(
                    "GET", location, phase="finalize", cancel=self._cancel
                )
            except HubUnreachableError:
                continue
            if reply.status >= 500 or reply.status == 429:
                continue
            raise_for(reply, "finalize")
            record = reply.record("finalize")
            if record.get("finalize_status") == "failed" or record.get("state") == "failed":
                raise ArtifactTransferError(
                    f"the hub failed to publish: {_error_text(record.get('finalize_error'))}",
                    provider=PROVIDER,
                    phase="finalize",
                )
            if record.get("state") == "finalized" or record.get("finalize_status") == "succeeded":
                result = record.get("finalize_result")
                return result if isinstance(result, dict) else record

    def _location(self, reply: Reply) -> str:
        """Return where to poll, below our own base URL whatever host the hub names."""
        parts = urlsplit(reply.headers.get("location", ""))
        if not parts.path.startswith("/"):
            return self._path
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def _pause(
        self, delay_s: float, told_s: float | None, deadline: float, failure: ArtifactTransferError
    ) -> float:
        """Wait, and return how long to wait the next time.

        Raises:
            ArtifactTransferError: `failure`, as the time is up.
        """
        clock = self._connection.clock
        pause_s = delay_s if told_s is None else told_s
        pause_s += clock.random() * min(_POLL_JITTER_S, pause_s / 10)
        if clock.now() + pause_s > deadline:
            raise failure
        clock.sleep(pause_s, self._cancel)
        return min(delay_s * _POLL_GROWTH, _POLL_MAX_S)


def _retry_after_s(reply: Reply) -> float | None:
    told = reply.data.get("retry_after_seconds") if isinstance(reply.data, dict) else None
    if told is None:
        told = reply.headers.get("retry-after")
    try:
        seconds = float(told) if told is not None else -1.0
    except (TypeError, ValueError):  # a date, which no hub of ours sends
        return None
    return min(seconds, 60.0) if seconds >= 0 else None


def _error_text(error: Any) -> str:
    if isinstance(error, dict):
        error = error.get("message") or error.get("error")
    return str(error or "it does not say why")[:512]


def _checkpoint_ids(result: dict[str, Any], count: int) -> tuple[str, ...]:
    listed = result.get("checkpoints")
    items = listed if isinstance(listed, list) else []
    ids = tuple(str(item.get("checkpoint_id") or "") for item in items if isinstance(item, dict))
    if len(ids) != count or not all(ids):
        raise ArtifactTransferError(
            f"the hub names {len(ids)} checkpoints, {count} were published",
            provider=PROVIDER,
            phase="finalize",
        )
    return ids


def _revisions(owner: str, repo: str) -> str:
    return f"/api/v1/repos/{segment(owner)}/{segment(repo)}/revisions"
