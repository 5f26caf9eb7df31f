"""The model hub: a client for every route, and a complete hub of your own in a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.models.hub.capability import Capability, read_capability
    from gen_worker.models.hub.client import HubClient
    from gen_worker.models.hub.clock import Clock
    from gen_worker.models.hub.errors import (
        BudgetExceededError,
        CheckpointNotFoundError,
        FlavorNotFoundError,
        HubAuthError,
        HubRequestError,
        HubUnreachableError,
        IngestTimeoutError,
        MalformedAnswerError,
        NoCompatibleArtifactError,
        NotOnHubError,
        PublicModelError,
        RepoNotFoundError,
        TagNotFoundError,
    )
    from gen_worker.models.hub.local.hub import LocalHub
    from gen_worker.models.hub.local.ingest import Ingested, Ingester, IngestRequest
    from gen_worker.models.hub.local.rooms import HubOptions
    from gen_worker.models.hub.publication import Flavor, Publication, Published
    from gen_worker.models.hub.publishing import publish_flavors, publish_folder
    from gen_worker.models.hub.pulling import Pulled, pull_folder
    from gen_worker.models.hub.revision import Revision
    from gen_worker.models.hub.wire import (
        Artifact,
        FileEntry,
        Lineage,
        Resolution,
        TransferGrant,
        Uploaded,
    )

# Loaded at first use: a worker that never publishes pays for no more than it asks.
_MODULES = {
    "capability": ("Capability", "read_capability"),
    "client": ("HubClient",),
    "clock": ("Clock",),
    "errors": (
        "BudgetExceededError",
        "CheckpointNotFoundError",
        "FlavorNotFoundError",
        "HubAuthError",
        "HubRequestError",
        "HubUnreachableError",
        "IngestTimeoutError",
        "MalformedAnswerError",
        "NoCompatibleArtifactError",
        "NotOnHubError",
        "PublicModelError",
        "RepoNotFoundError",
        "TagNotFoundError",
    ),
    "local.hub": ("LocalHub",),
    "local.ingest": ("IngestRequest", "Ingested", "Ingester"),
    "local.rooms": ("HubOptions",),
    "publication": ("Flavor", "Publication", "Published"),
    "publishing": ("publish_flavors", "publish_folder"),
    "pulling": ("Pulled", "pull_folder"),
    "revision": ("Revision",),
    "wire": ("Artifact", "FileEntry", "Lineage", "Resolution", "TransferGrant", "Uploaded"),
}

__all__ = [  # noqa: RUF022  # in the order of the table
    "Capability",
    "read_capability",
    "HubClient",
    "Clock",
    "BudgetExceededError",
    "CheckpointNotFoundError",
    "FlavorNotFoundError",
    "HubAuthError",
    "HubRequestError",
    "HubUnreachableError",
    "IngestTimeoutError",
    "MalformedAnswerError",
    "NoCompatibleArtifactError",
    "NotOnHubError",
    "PublicModelError",
    "RepoNotFoundError",
    "TagNotFoundError",
    "LocalHub",
    "IngestRequest",
    "Ingested",
    "Ingester",
    "HubOptions",
    "Flavor",
    "Publication",
    "Published",
    "publish_flavors",
    "publish_folder",
    "Pulled",
    "pull_folder",
    "Revision",
    "Artifact",
    "FileEntry",
    "Lineage",
    "Resolution",
    "TransferGrant",
    "Uploaded",
]


__getattr__, __dir__ = lazy_names(__name__, _MODULES)
