"""Publishing folders: every file goes up, four at a time, then one finalize publishes them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.models.formats.plain_files import files_below
from gen_worker.models.hub.uploading import file_facts
from gen_worker.models.hub.wire import (
    DEFAULT_FLAVOR,
    FileEntry,
    FlavorFacts,
    FlavorPublication,
    check_tags,
)
from gen_worker.models.refs import DEFAULT_TAG, TensorhubRef, parse_ref
from gen_worker.models.snapshot import SnapshotFile, snapshot_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.models.hub.client import HubClient
    from gen_worker.models.hub.revision import Revision
    from gen_worker.models.hub.uploading import FileFacts, Tell
    from gen_worker.models.hub.wire import Lineage, Uploaded

__all__ = ["Flavor", "Published", "publish_flavors", "publish_folder"]

_FILES_AT_ONCE = 4


class Flavor(FlavorFacts, frozen=True, kw_only=True):
    """A folder that becomes one checkpoint; the hub reads from the files what is not told."""

    folder: str
    name: str = DEFAULT_FLAVOR
    other_names: tuple[str, ...] = ()
    lineage: tuple[Lineage, ...] = ()


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What a publication made."""

    owner: str
    repo: str
    checkpoint_ids: tuple[str, ...]
    """In the order of the flavors."""
    tags: tuple[str, ...]
    flavors: tuple[str, ...]
    files: int
    size_bytes: int
    sent_bytes: int
    """Without what the hub had before."""


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
    ref, wanted_tags = _repository(repository), check_tags(tags)
    files = [_files_of(flavor) for flavor in flavors]
    with client.open_revision(
        ref.owner, ref.repo, request_id=request_id, tell=tell, cancel=cancel, **facts
    ) as revision:
        sent = _upload_all(revision, [item for listed in files for item in listed.items()])
        publications = []
        for flavor, listed in zip(flavors, files, strict=True):
            old = () if keep_other_files else client.tree(ref.owner, ref.repo, flavor=flavor.name)
            gone = {str(entry["path"]) for entry in old} - set(listed)
            publications.append(_publication(flavor, listed, gone))
        ids = revision.finalize(publications, tags=wanted_tags, default_flavor=default_flavor)
    return Published(
        owner=ref.owner,
        repo=ref.repo,
        checkpoint_ids=ids,
        tags=wanted_tags,
        flavors=tuple(flavor.name for flavor in flavors),
        files=sum(map(len, files)),
        size_bytes=_distinct_bytes(item for listed in files for item in listed.values()),
        sent_bytes=_distinct_bytes(one for one in sent if not one.dedup),
    )


def _repository(text: str) -> TensorhubRef:
    ref = parse_ref(text)
    assert isinstance(ref, TensorhubRef), "parsed as one"
    if str(ref) != f"{text.strip().lower()}:{DEFAULT_TAG}":
        raise ValidationError(f"{text!r} is more than 'owner/repo': tags are given apart")
    return ref


def _distinct_bytes(files: Iterable[FileFacts | Uploaded]) -> int:
    return sum({file.blake3: file.size_bytes for file in files}.values())


def _files_of(flavor: Flavor) -> dict[str, FileFacts]:
    """Return every file below a flavor's folder by its relative path, measured and hashed.

    Raises:
        ValidationError: There are none, or their names cannot be published.
    """
    if not os.path.isdir(flavor.folder):
        raise ValidationError(f"{flavor.folder!r} is no folder")
    paths = {relative: path for path, relative in sorted(files_below(flavor.folder))}
    if not paths:
        raise ValidationError(f"{flavor.folder!r} has no files to publish")
    _check_names(paths)
    with ThreadPoolExecutor(_FILES_AT_ONCE, "hub-hash") as executor:
        return dict(zip(paths, executor.map(file_facts, paths.values()), strict=True))


def _check_names(paths: Iterable[str]) -> None:
    """Refuse what no machine may be asked to store, before anything is sent."""
    placeholder = "0" * 64
    snapshot_of(SnapshotFile(path=path, size_bytes=0, blake3=placeholder) for path in paths)


def _upload_all(revision: Revision, files: Sequence[tuple[str, FileFacts]]) -> list[Uploaded]:
    """Upload several files at a time, each content once; the first failure ends it."""
    distinct = {facts.blake3: (path, facts) for path, facts in reversed(files)}

    def upload(item: tuple[str, FileFacts]) -> Uploaded:
        path, facts = item
        return revision.upload(facts.path, path, facts=facts)

    with ThreadPoolExecutor(_FILES_AT_ONCE, "hub-file") as executor:
        sending = [executor.submit(upload, item) for item in distinct.values()]
        try:
            return [future.result() for future in sending]
        except BaseException:
            for future in sending:
                future.cancel()
            raise


def _publication(
    flavor: Flavor, files: Mapping[str, FileFacts], gone: set[str]
) -> FlavorPublication:
    told = {name: getattr(flavor, name) for name in FlavorFacts.__struct_fields__}
    told["deletions"] = tuple(sorted({*flavor.deletions, *gone}))
    return FlavorPublication(
        snapshot_manifest=tuple(
            FileEntry(path=path, digest=f"blake3:{facts.blake3}", size_bytes=facts.size_bytes)
            for path, facts in files.items()
        ),
        flavor=flavor.name,
        flavors=tuple(dict.fromkeys((flavor.name, *flavor.other_names))),
        lineage=flavor.lineage,
        **told,
    )
