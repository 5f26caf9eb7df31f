"""Lets the checks of a caller's model overrides ask the hub."""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import TYPE_CHECKING

import msgspec

from gen_worker.models.hub.errors import (
    FlavorNotFoundError,
    HubAuthError,
    NotOnHubError,
    TagNotFoundError,
)
from gen_worker.models.overrides import RepoFacts
from gen_worker.models.refs import TensorhubRef

if TYPE_CHECKING:
    from gen_worker.models.hub.client import HubClient
    from gen_worker.models.hub.wire import Resolution
    from gen_worker.models.refs import Ref

__all__ = ["ClientLookup"]

_INDEX = "model_index.json"
_MAX_INDEX_BYTES = 1024 * 1024


class ClientLookup:
    """Knows the facts of refs of the hub, and of the public models it may get hold of."""

    def __init__(self, client: HubClient) -> None:
        self._client = client

    async def look_up(self, ref: Ref) -> RepoFacts | None:
        """Return what the hub knows of `ref`; None when it does not exist or may not be read."""
        if not isinstance(ref, TensorhubRef):
            # Nobody asked for it yet; whether it exists shows when it is fetched.
            return RepoFacts()
        return await asyncio.to_thread(self.facts_of, ref)

    def facts_of(self, ref: TensorhubRef) -> RepoFacts | None:
        """Ask, blocking."""
        try:
            found = self._client.resolve(ref)
        except TagNotFoundError as error:
            return RepoFacts(tags=frozenset(error.available))
        except FlavorNotFoundError as error:
            return RepoFacts(tags=frozenset({ref.tag}), flavors=frozenset(error.available))
        except NotOnHubError:
            return None
        except HubAuthError as error:
            if error.status_code == 401:
                raise
            return None
        return RepoFacts(
            tags=frozenset(found.tags or ()) | {ref.tag},
            flavors=frozenset(found.flavors or ()) | ({ref.flavor} if ref.flavor else set()),
            pipeline_class=self._pipeline_class(found),
        )

    def _pipeline_class(self, found: Resolution) -> str:
        """Return the class the files name: as the hub tells, else as they say themselves."""
        if found.pipeline_class is not None:
            return found.pipeline_class
        index = next((file for file in found.snapshot.files if file.path == _INDEX), None)
        if index is None:
            return ""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, _INDEX)
            self._client.get_blob(index.blake3, path, max_bytes=_MAX_INDEX_BYTES)
            with open(path, "rb") as file:
                data = file.read()
        try:
            document = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ""
        name = document.get("_class_name") if isinstance(document, dict) else None
        return name if isinstance(name, str) else ""
