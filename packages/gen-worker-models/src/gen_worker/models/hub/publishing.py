"""Publishing folders: every file goes up, four at a time, then one finalize publishes them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gen_worker.models.hub.publication import Flavor, Publication
from gen_worker.models.hub.wire import DEFAULT_FLAVOR
from gen_worker.models.refs import DEFAULT_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.models.hub.client import HubClient
    from gen_worker.models.hub.publication import Published
    from gen_worker.models.hub.uploading import Tell
    from gen_worker.models.hub.wire import Lineage

__all__ = ["publish_flavors", "publish_folder"]


def publish_folder(
    client: HubClient,
    folder: str | os.PathLike[str],
    repository: str,
    *,
    tags: Iterable[str] = (DEFAULT_TAG,),
    flavor: str = DEFAULT_FLAVOR,
    keep_other_files: bool = False,
    default_flavor: str = "",
    dtype: str = "",
    file_layout: str = "",
    file_type: str = "",
    lineage: Sequence[Lineage] = (),
    metadata: Mapping[str, Any] | None = None,
    request_id: str = "",
    tell: Tell | None = None,
    cancel: CancelToken | None = None,
    **facts: str,
) -> Published:
    """Publish a folder as one checkpoint of `owner/repo`.

    The options are those of a `Flavor` and of `publish_flavors`, and so are the errors.
    """
    one = Flavor(
        folder=os.fspath(folder),
        name=flavor,
        dtype=dtype,
        file_layout=file_layout,
        file_type=file_type,
        lineage=tuple(lineage),
        metadata=metadata or {},
    )
    return publish_flavors(
        client,
        (one,),
        repository,
        tags=tags,
        keep_other_files=keep_other_files,
        default_flavor=default_flavor,
        request_id=request_id,
        tell=tell,
        cancel=cancel,
        **facts,
    )


def publish_flavors(
    client: HubClient,
    flavors: Sequence[Flavor],
    repository: str,
    *,
    tags: Iterable[str] = (DEFAULT_TAG,),
    keep_other_files: bool = False,
    default_flavor: str = "",
    request_id: str = "",
    tell: Tell | None = None,
    cancel: CancelToken | None = None,
    **facts: str,
) -> Published:
    """Publish several folders as the flavors of one publication.

    Everything below a folder is published; links count as what they point to.

    Args:
        client: Of the hub.
        flavors: The folders, and what each is called.
        repository: `owner/repo`.
        tags: Moved to this publication; none leaves it to `latest`, which moves by itself.
        keep_other_files: Whether files of these flavors that are not in the folders stay.
        default_flavor: What a tag without a flavor means; the first one unless given.
        request_id: Of the call that publishes.
        tell: Gets progress events.
        cancel: Stops it; what was sent is not sent again by the next attempt.
        facts: Of the publication, as `HubClient.open_revision` takes them.

    Raises:
        ValidationError: A folder is empty or has names that cannot be published, or a tag or
            flavor is none.
        ArtifactTransferError: It did not work; nothing was published.
        HubAuthError: The token does not allow it.
    """
    publication = Publication(
        client, repository, request_id=request_id, tell=tell, cancel=cancel, **facts
    )
    with publication:
        return publication.publish(
            flavors, tags=tags, keep_other_files=keep_other_files, default_flavor=default_flavor
        )
