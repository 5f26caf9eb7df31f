"""Going on with what a ref meant last when its provider is silent, and saying so."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gen_worker.errors import ModelResolutionError
    from gen_worker.models.sources.values import LocalModel, Request

__all__ = ["last_known", "tell_last_known"]

_log = logging.getLogger("gen_worker.models.sources")


def last_known(
    request: Request, here: LocalModel | None, error: ModelResolutionError
) -> LocalModel:
    """Return the model that is here, marked as such.

    Args:
        request: Whose report is told.
        here: What the ref meant last; None when it is not here, or may not be used.
        error: Why the provider did not answer.

    Raises:
        ModelResolutionError: `error`, unless it may be gone at the next try and something is here.
    """
    if here is None or not error.retryable:
        raise error
    tell_last_known(request, here.digest)
    return msgspec.structs.replace(here, is_last_known=True)


def tell_last_known(request: Request, digest: str) -> None:
    """Say, in the log and as an event, that a ref is taken to mean what it meant last."""
    choice = request.choice
    _log.warning(
        "%s cannot be asked what %s means now: using %s, which it meant last",
        choice.provider,
        choice.target,
        digest,
    )
    request.report.event("model.resolve.last_known", provider=choice.provider, digest=digest)
