"""What a worker of a release is started with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from gen_worker.cli.platform.environments import interpreter_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.cli.platform.api import Api
    from gen_worker.cli.platform.folder import DataFolder

__all__ = ["ENTRYPOINT", "Ticket", "ask_ticket", "interpreter_for", "worker_environment"]

ENTRYPOINT = "gen_worker.entrypoint"
_DRAIN_S = "10"
_NOT_THEIRS = frozenset(
    (
        "GEN_WORKER_TOKEN",  # a caller's, who may do more than a worker, as with these
        "GEN_WORKER_SCHEDULER_TOKEN",
        "GEN_WORKER_SCHEDULER_WORKER_TOKEN",
        "GEN_WORKER_URL",
        "ENDPOINT_TOML_PATH",  # of the folder that it was published from
        "GEN_WORKER_CONFIG",
        "VIRTUAL_ENV",
        "PYTHONHOME",
    )
)


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What a scheduler gives to whoever starts a worker."""

    token: str
    worker_id: str = ""
    address: str = ""
    """That workers connect to, as the scheduler's machine calls it."""
    release_id: str = ""
    owner: str = ""
    endpoint: str = ""
    environment: str = ""
    source: str = ""
    """Folder to run in."""
    lock: str = ""
    hub: str = ""


def ask_ticket(api: Api, **wanted: str) -> Ticket:
    """Ask for what a worker needs. Blocks.

    Args:
        api: The scheduler.
        wanted: `owner`, `endpoint`, and `release_id` or `tag`; `worker_id` to choose its name.

    Raises:
        ApiError: There is no such release.
        NoPlatformError: The scheduler does not answer.
    """
    answer = api.post("/v1/workers/tokens", {name: text for name, text in wanted.items() if text})
    return msgspec.convert(answer, Ticket)


def interpreter_for(ticket: Ticket, folder: DataFolder) -> str:
    """Return what runs a worker.

    Raises:
        UsageError: Its environment is not on this machine.
    """
    return interpreter_of(ticket.environment, dict(folder.interpreters()), folder.environments)


def worker_environment(
    base: Mapping[str, str], ticket: Ticket, folder: DataFolder, *, hub: str = "", address: str = ""
) -> dict[str, str]:
    """Return all environment variables of a worker.

    What the user has set for workers stays; only what ties one to its scheduler is ours.

    Args:
        base: Of the process that starts it.
        ticket: From its scheduler.
        folder: Models are kept there unless the user keeps them elsewhere.
        hub: URL of the model hub; the ticket's by default.
        address: Of the scheduler, as this machine calls it; the ticket's by default.
    """
    environment = {name: text for name, text in base.items() if name not in _NOT_THEIRS}
    environment.setdefault("WORKER_DRAIN_TIMEOUT_SECONDS", _DRAIN_S)
    # A release is never written to. (PYTHONPYCACHEPREFIX would have all that the environment has
    # compiled already compiled once more: the first start of a worker took twice as long.)
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    if not environment.get("TENSORHUB_CACHE_DIR"):
        environment.setdefault("TENSORHUB_CAS_DIR", os.path.join(folder.cache, "cas"))
    if hub or ticket.hub:
        environment.setdefault("TENSORHUB_URL", hub or ticket.hub)
    return environment | {
        "WORKER_MODE": "inference",
        "WORKER_JWT": ticket.token,
        "PUBLIC_ORCHESTRATOR_GRPC_ADDR": address or ticket.address,
        "SCHEDULER_ADDRS": "",
        "GEN_WORKER_LOCK": ticket.lock,
    }
