"""What is known of the functions of releases: read once, as a release never changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gen_worker.resources import ResourceRequirements, Resources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.runtime.http.backend import ServedFunction
    from gen_worker.runtime.scheduler.releases.releases import Releases

__all__ = ["Catalog", "FunctionFacts"]


class FunctionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One function of a release, as its lock has it."""

    owner: str
    """Whose endpoint."""
    endpoint: str
    release_id: str
    function: str
    """Slug."""
    kind: Literal["inference", "training", "dataset", "conversion"] = "inference"
    output_mode: Literal["single", "incremental"] = "single"
    timeout_ms: int | None = None
    """The author's own limit; the worker counts it from when the function begins."""
    max_batch: int | None = None
    resources: Resources | ResourceRequirements = Resources()
    bindings: dict[str, dict[str, Any]] = {}
    """The lock's rows, by parameter."""

    @property
    def is_streamed(self) -> bool:
        return self.output_mode == "incremental"


class Catalog:
    """The functions of all releases. On the loop."""

    def __init__(self, releases: Releases) -> None:
        raise NotImplementedError

    async def facts(
        self, owner: str, endpoint: str, release_id: str, function: str
    ) -> FunctionFacts:
        """Return what is known of a function.

        Raises:
            UnknownFunctionError: There is no such release, or it has no such function.
        """
        raise NotImplementedError

    def known(
        self, owner: str, endpoint: str, release_id: str, function: str
    ) -> FunctionFacts | None:
        """Return the same at once, if it was asked for before."""
        raise NotImplementedError

    async def functions(self) -> Sequence[ServedFunction]:
        """List what callers' names mean now: the functions of every tag, each release once."""
        raise NotImplementedError
