"""What a worker keeps for each request that uses files."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from gen_worker.cancel import CancelToken
from gen_worker.context.local_stream import write_error
from gen_worker.errors import CanceledError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from gen_worker.models.hub import HubClient, Revision, Uploaded
    from gen_worker.runtime.files.scope import JobScope
    from gen_worker.runtime.files.workplace import Workplace

    Tell = Callable[[str, dict[str, Any]], object]

__all__ = ["Request", "Requests"]


class Discardable(Protocol):
    """An output that was begun."""

    @property
    def is_open(self) -> bool: ...
    def abort(self) -> None: ...


class Request:
    """One request. Its directory and its connection to the hub exist once something needs them."""

    def __init__(self, request_id: str, scope: JobScope, workplace: Workplace) -> None:
        self.id = request_id
        self.scope = scope
        self.streams: list[Discardable] = []
        self.created: set[str] = set()
        """Refs of the outputs that were stored."""
        self.revisions: dict[str, Revision] = {}
        """By `owner/repo` in lower case; shared by checkpoints and publications."""
        self._uploaded: dict[str, dict[str, Uploaded]] = {}
        self.followers: dict[str, Tell] = {}
        """Of uploads under way, by ref."""
        self.publishing = threading.Lock()
        """Held while a revision is begun, so that there is one."""
        self._workplace = workplace
        self._lock = threading.RLock()
        self._directory = ""
        self._client: HubClient | None = None
        self._token: CancelToken | None = None
        self._is_closed = False
        self._kept = ExitStack()

    def __repr__(self) -> str:
        return f"<Request {self.id!r} of {self.scope!r}>"

    @property
    def is_used(self) -> bool:
        """Whether something has to be given back."""
        return bool(self._directory or self.streams or self._client)

    @property
    def token(self) -> CancelToken:
        """Ends every transfer of the request."""
        with self._lock:
            if self._token is None:
                self._token = CancelToken()
            return self._token

    def follow(self, token: CancelToken) -> None:
        """Let a cancel of `token` end the request's transfers, those under way included."""
        with self._lock:
            known, self._token = self._token, self._token or token
        if known is not None and known is not token:
            token.on_cancel(lambda: _pass_on(token, known))

    @property
    def directory(self) -> str:
        """Where the request's files are; made when it is first asked for."""
        with self._lock:
            if self._is_closed:
                raise CanceledError("the request has ended")
            if not self._directory:
                self._directory = self._workplace.make(self.id)
            return self._directory

    def uploaded_to(self, revision: Revision) -> dict[str, Uploaded]:
        """Return the files of a revision by ref; whoever uploads adds them."""
        return self._uploaded.setdefault(revision.revision_id, {})

    def tell(self, kind: str, payload: dict[str, Any]) -> None:
        """Pass on how an upload gets on to whoever follows it."""
        follower = self.followers.get(payload.get("ref", ""))
        if follower is not None:
            follower(kind, payload)

    def new_path(self, folder: str, suffix: str = "") -> str:
        """Return a name that no file of the request has yet."""
        parent = os.path.join(self.directory, folder)
        try:
            os.makedirs(parent, mode=0o700, exist_ok=True)
        except OSError as error:
            raise write_error("a file of the request", error) from error
        return os.path.join(parent, f"{os.urandom(8).hex()}{suffix}")

    def client(self) -> HubClient:
        """Return the connection to the job's hub, which the scope must have."""
        with self._lock:
            if self._client is None:
                from gen_worker.models.hub import HubClient

                scope = self.scope
                self._client = HubClient(scope.base_url, scope.capability_token, owner=scope.owner)
            return self._client

    def keep(self, lease: AbstractContextManager[str]) -> str:
        """Hold what others must not remove until the request has ended; return where it is."""
        with self._lock:
            if self._is_closed:
                raise CanceledError("the request has ended")
            return self._kept.enter_context(lease)

    def close(self) -> None:
        """Give up what was begun and remove the request's files. Blocks."""
        for stream in self.streams:
            if stream.is_open:
                stream.abort()
        try:
            for revision in self.revisions.values():
                revision.abort()
        finally:
            with self._lock:
                self._is_closed = True
                directory, self._directory = self._directory, ""
                client, self._client = self._client, None
                kept = self._kept.pop_all()
            kept.close()
            if directory:
                self._workplace.remove(directory)
            if client is not None:
                client.close()


class Requests:
    """The requests that are under way. Thread-safe; nothing here blocks."""

    def __init__(
        self,
        default: JobScope,
        workplace: Workplace,
        find: Callable[[str], tuple[JobScope, CancelToken] | None] | None = None,
    ) -> None:
        """Begin without any.

        Args:
            default: Of requests that nobody entered, and the hub of those that name none.
            workplace: Makes their directories.
            find: Says what belongs to a request that nobody entered; any thread. None: nothing.
        """
        self._default = default
        self._find = find
        self._workplace = workplace
        self._lock = threading.Lock()
        self._known: dict[str, Request] = {}

    def __len__(self) -> int:
        return len(self._known)

    def enter(self, request_id: str, scope: JobScope) -> Request:
        """Let a request begin; an id that is under way stays what it is."""
        with self._lock:
            known = self._known.get(request_id)
            if known is None:
                known = Request(request_id, scope.over(self._default), self._workplace)
                self._known[request_id] = known
            return known

    def get(self, request_id: str) -> Request:
        """Return a request; one that nobody entered begins now."""
        known = self._known.get(request_id)
        if known is not None:
            return known
        found = self._find(request_id) if self._find is not None else None
        if found is None:
            return self.enter(request_id, self._default)
        scope, token = found
        known = self.enter(request_id, scope)
        known.follow(token)
        return known

    def find(self, request_id: str) -> Request | None:
        return self._known.get(request_id)

    def take(self, request_id: str) -> Request | None:
        """Forget a request, and return it to be closed."""
        with self._lock:
            return self._known.pop(request_id, None)

    def take_all(self) -> list[Request]:
        with self._lock:
            known, self._known = self._known, {}
        return list(known.values())


def _pass_on(token: CancelToken, known: CancelToken) -> None:
    known.cancel(token.reason or "caller")
