"""What jobs that publish may do at the model hub: a token of their own for each of them."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ArtifactTransferError, WorkerError
from gen_worker.models.refs import RefError, TensorhubRef, parse_prefixed_ref

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.models.hub import HubClient
    from gen_worker.models.hub.capability import Permissions
    from gen_worker.models.settings import ModelSettings
    from gen_worker.runtime.scheduler.values import RequestRecord

__all__ = ["HubRights", "lifetime_s", "permissions_of"]

_SLACK_S = 3600.0
"""How much longer than its own limit a job may use a token: it is not limited while it waits."""
_LONGEST_S = 7 * 86_400.0
"""For jobs without a limit."""

_NOBODY = "local"
"""Whose files a hub takes those for that are sent without an owner."""

_log = logging.getLogger("gen_worker.scheduler")


class HubRights:
    """Asks a hub for tokens, as whoever administers it. On the loop.

    A hub that gives none, as one of somebody else does, leaves jobs with the token of their
    worker's settings.
    """

    def __init__(self, settings: ModelSettings, own: str) -> None:
        """Prepare; nothing is opened before a job publishes.

        Args:
            settings: Which hub, and the token for it.
            own: Whose requests may publish for everybody, as nobody's may; others' publish for
                their own owner.
        """
        self._settings = settings
        self._own = own
        self._client: HubClient | None = None
        self._connecting = threading.Lock()

    async def close(self) -> None:
        """Let the connection go."""
        if self._client is not None:
            await asyncio.to_thread(self._client.close)

    async def token(self, record: RequestRecord, payload: bytes, models: Iterable[str] = ()) -> str:
        """Return a job's token; empty when it has no use for one, or there is none.

        Args:
            record: The request.
            payload: MessagePack.
            models: Fields besides `source` that name what its function reads.

        Raises:
            ArtifactTransferError: The hub cannot be reached now; it is worth another try.
        """
        if not self._settings.hub_url:
            return ""
        is_own = record.owner in ("", self._own)
        wanted = permissions_of(payload, record.owner, is_own=is_own, models=models)
        if wanted is None:
            return ""
        subject = f"job {record.request_id}"
        try:
            return await asyncio.to_thread(self._ask, wanted, subject, lifetime_s(record))
        except ArtifactTransferError as error:
            if error.retryable:
                raise
            _log.warning("the hub gives no token for the %s: %s", subject, error)
        except WorkerError as error:
            _log.warning("the hub gives no token for the %s: %s", subject, error)
        return ""

    def _ask(self, wanted: Permissions, subject: str, ttl_s: float) -> str:
        from gen_worker.models.hub import HubClient

        with self._connecting:
            if self._client is None:
                self._client = HubClient(self._settings.hub_url, self._settings.hub_token)
        return self._client.issue_capability(wanted, subject=subject, ttl_s=ttl_s)


def lifetime_s(record: RequestRecord) -> float:
    """Return how long a job may use what it is given."""
    limit_s = _LONGEST_S if record.timeout_ms is None else record.timeout_ms / 1000 + _SLACK_S
    return min(limit_s, _LONGEST_S)


def permissions_of(
    payload: bytes, owner: str, *, is_own: bool, models: Iterable[str] = ()
) -> Permissions | None:
    """Return what a job may do with what its payload names; None when it may do nothing.

    Args:
        payload: MessagePack.
        owner: Of the request, empty when it is nobody's; for others' repositories nothing is given.
        is_own: Whether it is the platform's own, which may publish for everybody.
        models: Fields besides `source` that name what its function reads.
    """
    from gen_worker.models.hub.capability import Permissions

    try:
        fields = msgspec.msgpack.decode(payload, type=dict[str, Any])
    except msgspec.MsgspecError:  # the worker says what is wrong with it
        return None

    def allowed(*values: Any) -> tuple[TensorhubRef, ...]:
        found = (_ref(value) for value in values)
        owner_of = owner.lower()
        return tuple(one for one in found if one and (is_own or one.owner.lower() == owner_of))

    destinations = allowed(fields.get("destination") or fields.get("destination_repo"))
    datasets = fields.get("datasets")
    sources = dict.fromkeys(("source", *models))
    reads = allowed(
        *(fields.get(name) for name in sources), *(datasets if isinstance(datasets, list) else ())
    )
    if not destinations and not reads:
        return None
    return Permissions(
        read=tuple(f"{one.owner}/{one.repo}" for one in reads),
        publish=tuple(f"{one.owner}/{one.repo}" for one in destinations),
        create_owner=destinations[0].owner if destinations else "",
        create_names=tuple(one.repo for one in destinations),
        file_owners=(owner or _NOBODY,),
    )


def _ref(value: Any) -> TensorhubRef | None:
    """Return the repository that a reserved field names, if it is one of a hub."""
    text = value.get("ref") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text:
        return None
    try:
        found = parse_prefixed_ref(text)
    except RefError:
        return None
    return found if isinstance(found, TensorhubRef) else None
