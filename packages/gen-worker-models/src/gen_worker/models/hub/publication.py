"""A publication: finished files go up meanwhile, the others at its end, then all is published."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gen_worker.cancel import CancelToken
from gen_worker.context.early import EarlyUploads
from gen_worker.errors import ValidationError
from gen_worker.models.formats.plain_files import files_below
from gen_worker.models.hub.uploading import FileFacts, file_facts
from gen_worker.models.hub.wire import (
    DEFAULT_FLAVOR,
    FileEntry,
    FlavorFacts,
    FlavorPublication,
    Lineage,
    check_tags,
)
from gen_worker.models.refs import DEFAULT_TAG, TensorhubRef, parse_ref
from gen_worker.models.snapshot import SnapshotFile, snapshot_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gen_worker.models.hub.client import HubClient
    from gen_worker.models.hub.revision import Revision
    from gen_worker.models.hub.uploading import Tell
    from gen_worker.models.hub.wire import Uploaded

__all__ = ["Flavor", "Publication", "Published"]

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


class Publication:
    """One publication to `owner/repo`, whose files may go up before all of them are there.

    As a context manager: what was not published in the block is given up, and uploads under way
    end. Nothing is visible before `publish` returns.
    """

    def __init__(
        self,
        client: HubClient,
        repository: str,
        *,
        names: str = "",
        request_id: str = "",
        tell: Tell | None = None,
        cancel: CancelToken | None = None,
        **facts: str,
    ) -> None:
        """Say where to; nothing is sent yet.

        Args:
            client: Of the hub.
            repository: `owner/repo`.
            names: Directory for other names of files that `send` takes, on their disk, so that
                they may be moved meanwhile. It is this publication's alone: it is made when it is
                needed, and removed in the end.
            request_id: Of the call that publishes.
            tell: Gets progress events, in several threads.
            cancel: Stops it; what was sent is not sent again by the next attempt.
            facts: As `HubClient.open_revision` takes them.

        Raises:
            ValidationError: `repository` is none.
        """
        self._client = client
        self._ref = _repository(repository)
        self._names = names
        self._facts = {"request_id": request_id, **facts}
        self._tell = tell
        self._outer_cancel = cancel
        self._cancel = CancelToken()
        self._lock = threading.Lock()
        self._opened: Revision | None = None
        self._count = itertools.count()
        self._early = EarlyUploads(self._revision, self._put, self._make_names)

    def __enter__(self) -> Publication:
        if self._outer_cancel is not None:
            self._outer_cancel.on_cancel(self._stop)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._outer_cancel is not None:
            self._outer_cancel.discard(self._stop)
        if self._opened is None or not self._opened.is_closed:
            self._stop()
        self._early.end()
        if self._opened is not None:
            self._opened.abort()
        self._early.join()
        if self._names:
            shutil.rmtree(self._names, ignore_errors=True)

    def send(self, path: str | os.PathLike[str]) -> None:
        """Begin to send a file that will be in a folder of `publish`; never blocks.

        What cannot be sent now, or changes afterwards, is sent by `publish`.

        Raises:
            FileNotFoundError: There is no such file.
            CanceledError: The block was left.
        """
        self._early.add(path)

    def publish(
        self,
        flavors: Sequence[Flavor],
        *,
        tags: Iterable[str] = (DEFAULT_TAG,),
        keep_other_files: bool = False,
        default_flavor: str = "",
    ) -> Published:
        """Send what is missing, and publish; see `publish_flavors` for all of it."""
        ref, wanted_tags = self._ref, check_tags(tags)
        measured = [self._files_of(flavor) for flavor in flavors]
        files = [{path: facts for path, (facts, _) in one.items()} for one in measured]
        early = [sent for one in measured for _, sent in one.values() if sent is not None]
        there = {one.blake3 for one in early}
        due = [(p, facts) for one in files for p, facts in one.items() if facts.blake3 not in there]
        revision = self._revision()
        sent = [*early, *_upload_all(revision, due)]
        publications = []
        for flavor, listed in zip(flavors, files, strict=True):
            tree = self._client.tree
            old = () if keep_other_files else tree(ref.owner, ref.repo, flavor=flavor.name)
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

    def _revision(self) -> Revision:
        """Return the open revision, opening it first if needed."""
        with self._lock:
            if self._opened is None:
                ref = self._ref
                self._opened = self._client.open_revision(
                    ref.owner, ref.repo, tell=self._tell, cancel=self._cancel, **self._facts
                )
            return self._opened

    def _put(self, revision: Revision, name: str, path: Path) -> Uploaded:
        # Flavors have files of the same name, which are told apart while they are sent.
        return revision.upload(path, f"{next(self._count)}/{os.path.basename(name)}")

    def _make_names(self) -> Path:
        shutil.rmtree(self._names, ignore_errors=True)  # of a process that was killed
        os.makedirs(self._names)
        return Path(self._names)

    def _stop(self) -> None:
        outer = self._outer_cancel
        self._cancel.cancel(outer.reason or "caller" if outer is not None else "caller")

    def _files_of(self, flavor: Flavor) -> dict[str, tuple[FileFacts, Uploaded | None]]:
        """Return every file below a flavor's folder by its relative path, with its upload if any.

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
            return dict(zip(paths, executor.map(self._measured, paths.values()), strict=True))

    def _measured(self, path: str) -> tuple[FileFacts, Uploaded | None]:
        sent = self._early.facts_of(path)
        self._cancel.raise_if_canceled()
        if sent is None:
            return file_facts(path), None
        return FileFacts(path, sent.size_bytes, sent.blake3), sent


def _repository(text: str) -> TensorhubRef:
    ref = parse_ref(text)
    assert isinstance(ref, TensorhubRef), "parsed as one"
    if str(ref) != f"{text.strip().lower()}:{DEFAULT_TAG}":
        raise ValidationError(f"{text!r} is more than 'owner/repo': tags are given apart")
    return ref


def _distinct_bytes(files: Iterable[FileFacts | Uploaded]) -> int:
    return sum({file.blake3: file.size_bytes for file in files}.values())


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
