"""Which hub one job's files belong to, and on whose behalf."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

if TYPE_CHECKING:
    from gen_worker.runtime.files.settings import FileSettings

__all__ = ["JobScope"]

_DESTINATIONS = ("destination_repo", "repo", "output_repo")
_JOBS = ("job_id", "conversion_job_id", "training_job_id")


class JobScope(msgspec.Struct, frozen=True, kw_only=True):
    """What a job says about its files."""

    base_url: str = ""
    """Of the hub."""
    capability_token: str = ""
    owner: str = ""
    job_id: str = ""
    hints: Mapping[str, Any] = {}
    asks_for_token: bool = True
    """Whether the hub is of no use without a token; one that only this machine reaches may be."""

    @classmethod
    def of(cls, settings: FileSettings) -> JobScope:
        """Return the scope of what belongs to no job."""
        return cls(base_url=settings.base_url, capability_token=settings.capability_token)

    def __repr__(self) -> str:  # the token is secret, and hints may hold anything
        facts = f"{self.base_url!r}, owner={self.owner!r}, job_id={self.job_id!r}"
        return f"JobScope({facts}, {'with' if self.capability_token else 'without'} a token)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("base_url", self.base_url), ("owner", self.owner), ("job_id", self.job_id)]

    @property
    def has_hub(self) -> bool:
        """Whether there is a hub that this job may use."""
        return bool(self.base_url and (self.capability_token or not self.asks_for_token))

    @property
    def job(self) -> str:
        """The job's id, given or hinted; empty when there is none."""
        return self.job_id or self._hinted(_JOBS)

    @property
    def destination(self) -> str:
        """`owner/repo` that checkpoints of the job go to; empty when there is none."""
        return self._hinted(_DESTINATIONS) if self.job else ""

    @property
    def credentials(self) -> tuple[tuple[str, str], ...]:
        """Headers that show the hub who asks."""
        owner = (("X-Cozy-Owner", self.owner),) if self.owner else ()
        token = self.capability_token
        return ((("Authorization", f"Bearer {token}"),) if token else ()) + owner

    def file_url(self, path: str) -> str:
        """Return where the hub has a file, by its relative path."""
        segments = path.replace(os.sep, "/").split("/")
        return self._route("file", *segments)

    def blob_url(self, name: str) -> str:
        """Return where the hub has a blob, `<algorithm>:<hex>`."""
        return self._route("blobs", name, "content")

    def over(self, default: JobScope) -> JobScope:
        """Return this scope with the hub of another one where it names none itself.

        A token is for one hub: the other one's goes only to the other one's.
        """
        if self.base_url:
            return self
        token = self.capability_token or default.capability_token
        return msgspec.structs.replace(self, base_url=default.base_url, capability_token=token)

    def _route(self, *segments: str) -> str:
        path = "/".join(quote(segment, safe=":") for segment in segments)
        return f"{self.base_url.rstrip('/')}/api/v1/{path}"

    def _hinted(self, names: tuple[str, ...]) -> str:
        found = (self.hints.get(name) for name in names)
        return next((text.strip() for text in found if isinstance(text, str) and text.strip()), "")
