"""What the hub knows of a ref, as the checks of a caller's model overrides want it."""

from __future__ import annotations

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
from gen_worker.models.sources.facts import INDEX, class_named_in

if TYPE_CHECKING:
    from gen_worker.models.hub.client import HubClient
    from gen_worker.models.hub.wire import Resolution
    from gen_worker.models.refs import TensorhubRef

__all__ = ["pipeline_class_of", "repo_facts"]

_MAX_INDEX_BYTES = 1024 * 1024


def repo_facts(client: HubClient, ref: TensorhubRef) -> RepoFacts | None:
    """Return what the hub knows of `ref`; None when it does not exist or may not be read.

    Raises:
        HubAuthError: The hub refuses this client's own token.
        ArtifactTransferError: The hub cannot be asked.
    """
    try:
        found = client.resolve(ref)
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
        pipeline_class=pipeline_class_of(client, found),
    )


def pipeline_class_of(client: HubClient, found: Resolution) -> str:
    """Return the class the files name: as the hub tells, else as they say themselves."""
    if found.pipeline_class is not None:
        return found.pipeline_class
    index = next((file for file in found.snapshot.files if file.path == INDEX), None)
    if index is None:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, INDEX)
        client.get_blob(index.blake3, path, max_bytes=_MAX_INDEX_BYTES)
        with open(path, "rb") as file:
            data = file.read()
    try:
        return class_named_in(msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
