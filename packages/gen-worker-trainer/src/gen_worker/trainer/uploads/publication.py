"""The bytes of a run on the hub: checkpoints in one revision that is published at the end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import msgspec

from gen_worker.errors import AuthError, CanceledError, WorkerError
from gen_worker.models.hub.errors import HubRequestError
from gen_worker.models.hub.uploading import file_facts
from gen_worker.models.hub.wire import DEFAULT_FLAVOR, FileEntry, FlavorPublication, Lineage
from gen_worker.trainer.checkpoints.values import FINAL
from gen_worker.trainer.errors import ArtifactUploadError
from gen_worker.trainer.uploads.retrying import UPLOAD_TRIES, persistently

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gen_worker.cancel import CancelToken
    from gen_worker.models.fetch import RetryLimits
    from gen_worker.models.hub import HubClient, Revision, Uploaded
    from gen_worker.models.hub.uploading import FileFacts
    from gen_worker.trainer.uploads.artifacts import CheckpointFiles

__all__ = ["HubUploads", "Publication"]

T = TypeVar("T")

_FILES_AT_ONCE = 4
_MOST_FLAVORS = 64
"""Of one publication, on the hub."""
_GONE = frozenset({"revision_expired", "revision_not_found", "revision_not_open"})


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """Whose uploads these are, and what is to become of them."""

    kind: str
    owner: str
    request_id: str
    repo: str = ""
    """`owner/name`; without it, or without a job, nothing is published."""
    job_id: str = ""
    tags: tuple[str, ...] = ()
    flavor: str = DEFAULT_FLAVOR
    """Of the final checkpoint; the others are called by their steps."""
    keep_last: int = 0
    """Of the periodic checkpoints, how many are published; 0 is as many as the hub takes."""
    lineage: tuple[Lineage, ...] = ()

    @property
    def is_revision(self) -> bool:
        return self.kind == "training" and bool(self.repo and self.job_id)


class HubUploads:
    """Sends files. Thread-safe, blocking."""

    def __init__(
        self,
        client: HubClient,
        publication: Publication,
        cancel: CancelToken,
        *,
        tries: RetryLimits = UPLOAD_TRIES,
    ) -> None:
        """Bind; the revision is opened with the first checkpoint.

        Args:
            client: With the token and the owner of the job.
            publication: What it is for.
            cancel: Ends what is under way.
            tries: Of each file.
        """
        self._client = client
        self._publication = publication
        self._cancel = cancel
        self._tries = tries
        self._revision: Revision | None = None
        self._lock = threading.Lock()
        self._facts: dict[str, dict[str, FileFacts]] = {}
        """Of the checkpoints that the hub has, by slot, in the order they were sent."""
        self._names: dict[str, str] = {}
        """What each file of them is called in the revision, by content."""

    def require_scope(self) -> None:
        """Refuse a training's checkpoints that have nowhere to go.

        Raises:
            ArtifactUploadError: No repository, or no job, is named.
        """
        if self._publication.kind == "training" and not self._publication.is_revision:
            raise ArtifactUploadError(
                "checkpoint upload requires repo-cas job scope: name a destination_repo and a "
                "job_id in execution_hints"
            )

    def send_checkpoint(self, files: CheckpointFiles) -> Uploaded | None:
        """Have every file of a checkpoint on the hub; return the main one's, None without files.

        Raises:
            AuthError: The token does not allow it.
            ArtifactUploadError: A file did not arrive, however often it was tried.
            CanceledError: It was not waited for.
        """
        if not files.paths:
            return None
        self.require_scope()
        with (
            _failing_as(f"the checkpoint of step {files.step}"),
            ThreadPoolExecutor(_FILES_AT_ONCE, "checkpoint-upload") as executor,
        ):
            sending = {
                name: executor.submit(self._send, path, files.upload_name(name))
                for name, path in files.paths.items()
            }
            try:
                sent = {name: future.result() for name, future in sending.items()}
            except BaseException:
                for future in sending.values():
                    future.cancel()
                raise
        self._facts.pop(files.slot, None)
        self._facts[files.slot] = {name: facts for name, (facts, _) in sent.items()}
        return sent[files.main][1]

    def send_sample(self, path: str, step: int, name: str) -> Uploaded:
        """Send a sample's file; the errors of `send_checkpoint`."""
        with _failing_as(f"the sample of step {step}"):
            return self._send_media(file_facts(path), "samples", f"step-{step:08d}-{name}")

    def publish(self) -> tuple[str, ...]:
        """Publish all checkpoints that were sent, at once; return their ids, the final one's first.

        Raises:
            AuthError: The token does not allow it.
            ArtifactUploadError: Nothing is published.
        """
        if not self._facts or not self._publication.is_revision:
            self.abort()
            return ()
        with _failing_as("the revision"):
            flavors = self._flavors()
            publication = self._publication
            return self._in_revision(
                lambda revision: revision.finalize(
                    flavors, tags=publication.tags, default_flavor=publication.flavor
                )
            )

    def abort(self) -> None:
        """Give up what is not published."""
        if self._revision is not None:
            self._revision.abort()

    def close(self) -> None:
        self.abort()
        self._client.close()

    # One file

    def _send(self, path: str, name: str) -> tuple[FileFacts, Uploaded]:
        self._cancel.raise_if_canceled()
        facts = file_facts(path)
        if not self._publication.is_revision:
            return facts, self._send_media(facts, "checkpoints", name)
        ref = f"checkpoints/{name}"
        with self._lock:
            self._names.setdefault(facts.blake3, ref)
        return facts, self._in_revision(
            lambda revision: persistently(
                lambda: revision.upload(path, ref, facts=facts), self._tries, self._cancel
            )
        )

    def _send_media(self, facts: FileFacts, category: str, name: str) -> Uploaded:
        publication = self._publication
        return persistently(
            lambda: self._client.upload_media(
                facts.path,
                f"v1/{publication.owner}/jobs/{publication.request_id}/{category}/{name}",
                owner=publication.owner,
                request_id=publication.request_id,
                job_id=publication.job_id,
                facts=facts,
                cancel=self._cancel,
            ),
            self._tries,
            self._cancel,
        )

    # The revision

    def _in_revision(self, act: Callable[[Revision], T]) -> T:
        """Do something with the open revision; one that a long run has outlived is replaced."""
        revision = self._open(None)
        try:
            return act(revision)
        except HubRequestError as error:
            if error.code not in _GONE:
                raise
        return act(self._open(revision))

    def _open(self, expired: Revision | None) -> Revision:
        with self._lock:
            known = self._revision
            if known is not None and known is not expired:
                return known
            publication = self._publication
            owner, _, repo = publication.repo.partition("/")
            self._revision = persistently(
                lambda: self._client.open_revision(
                    owner,
                    repo,
                    request_id=publication.request_id,
                    cancel=self._cancel,
                    job_id=publication.job_id,
                ),
                self._tries,
                self._cancel,
            )
            if expired is not None:
                self._announce(self._revision)
            return self._revision

    def _announce(self, revision: Revision) -> None:
        """Name in a new revision what was sent for an old one; the hub has the bytes."""
        for files in self._facts.values():
            for facts in files.values():
                revision.upload(facts.path, self._names[facts.blake3], facts=facts)

    def _flavors(self) -> list[FlavorPublication]:
        """Return the final checkpoint first, or the newest; then the others, the newest first."""
        publication = self._publication
        slots = sorted(self._facts, reverse=True)  # digits come before letters
        slots.sort(key=lambda slot: slot != FINAL)
        most = min(publication.keep_last or _MOST_FLAVORS, _MOST_FLAVORS - 1)
        kept = slots[: 1 + most]
        return [
            self._flavor(slot, publication.flavor if index == 0 else slot)
            for index, slot in enumerate(kept)
        ]

    def _flavor(self, slot: str, label: str) -> FlavorPublication:
        owner, _, repo = self._publication.repo.partition("/")
        files = self._facts[slot]
        before = self._client.tree(owner, repo, flavor=label)
        return FlavorPublication(
            snapshot_manifest=tuple(
                FileEntry(path=name, digest=f"blake3:{one.blake3}", size_bytes=one.size_bytes)
                for name, one in sorted(files.items())
            ),
            flavor=label,
            flavors=tuple(dict.fromkeys((label, slot))),
            lineage=self._publication.lineage,
            deletions=tuple(sorted({str(entry["path"]) for entry in before} - set(files))),
        )


@contextmanager
def _failing_as(what: str) -> Iterator[None]:
    """Say what did not arrive."""
    try:
        yield
    except (ArtifactUploadError, AuthError, CanceledError):
        raise
    except (WorkerError, OSError) as error:
        raise ArtifactUploadError(
            f"{what} did not get to the hub: {error}",
            provider="tensorhub",
            phase=getattr(error, "phase", "upload"),
            retryable=bool(getattr(error, "retryable", False)),
            status_code=getattr(error, "status_code", None),
            cause_type=type(error).__name__,
        ) from error
