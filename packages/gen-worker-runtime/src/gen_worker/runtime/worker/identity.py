"""Who the worker is: what its token says, and what the environment adds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.errors import AuthError
from gen_worker.runtime.auth.claims import read_claims

if TYPE_CHECKING:
    from gen_worker.runtime.worker.settings import WorkerSettings

__all__ = ["Identity", "MissingTokenError", "check_token", "identity_of"]


class MissingTokenError(AuthError):
    """A worker has nothing to connect with."""


class Identity(NamedTuple):
    """Who the worker is to its orchestrator."""

    worker_id: str
    release_id: str = ""
    runpod_pod_id: str = ""

    @property
    def provider(self) -> str:
        """Where the worker runs, as observations say it."""
        return "runpod" if self.runpod_pod_id else "local"


def identity_of(token: str, *, worker_id: str = "", runpod_pod_id: str = "") -> Identity:
    """Return who a worker is; its token's claims come before anything else.

    Args:
        token: One that is no JWT says nothing, and is good enough for an orchestrator that does
            not check.
        worker_id: For a token that names no worker; empty makes one of the process id.
        runpod_pod_id: As the environment says.
    """
    claims = read_claims(token)
    subject = claims.subject if claims is not None else ""
    return Identity(
        worker_id=subject or worker_id or f"py-worker-{os.getpid()}",
        release_id=claims.release_id if claims is not None else "",
        runpod_pod_id=runpod_pod_id,
    )


def check_token(settings: WorkerSettings) -> Identity:
    """Return who the worker is, its token checked as far as the settings ask for it. Blocks.

    Raises:
        MissingTokenError: There is no token.
        AuthError: `SCHEDULER_JWKS_URL` is set, and the token is not good by its keys.
    """
    if not settings.token:
        raise MissingTokenError("there is no token to connect with: set WORKER_JWT")
    if settings.jwks_url:
        from gen_worker.runtime.auth.verification import TokenVerifier

        TokenVerifier(
            settings.jwks_url,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            ttl_s=settings.jwks_ttl_s,
        ).verify(settings.token)
    return identity_of(
        settings.token, worker_id=settings.worker_id, runpod_pod_id=settings.runpod_pod_id
    )
