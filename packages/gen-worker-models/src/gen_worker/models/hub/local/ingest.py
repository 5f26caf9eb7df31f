"""Public models the hub gets hold of when somebody asks for them."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from gen_worker.errors import ValidationError, WorkerError
from gen_worker.models.formats.plain_files import files_below
from gen_worker.models.hub.errors import NoCompatibleArtifactError
from gen_worker.models.hub.local.catalog import Question
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.requests import (
    ConstraintsBody,
    FinalizeBody,
    FlavorBody,
    ManifestEntry,
)
from gen_worker.models.hub.wire import preferred_dtypes
from gen_worker.models.refs import TensorhubRef, parse_prefixed_ref
from gen_worker.models.store.durable import hash_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from gen_worker.models.hub.local.blobs import Blobs
    from gen_worker.models.hub.local.catalog import Catalog, Found
    from gen_worker.models.hub.local.database import Database, Row
    from gen_worker.models.hub.local.publications import Publications
    from gen_worker.models.hub.local.requests import PublicBody
    from gen_worker.models.hub.local.tokens import Principal
    from gen_worker.models.refs import Ref

__all__ = ["IngestRequest", "Ingested", "Ingester", "Ingests"]

_NOT_NAME = re.compile(r"[^a-z0-9._-]+")


class IngestRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A public model somebody asked for."""

    ref: str
    """As its provider writes it."""
    provider: str
    dtypes: tuple[str, ...] = ()
    """In order of preference."""
    file_types: tuple[str, ...] = ()
    file_layouts: tuple[str, ...] = ()


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """What an ingester says of the files it wrote; what is empty is read from them."""

    flavor: str = ""
    dtype: str = ""
    file_type: str = ""
    file_layout: str = ""
    metadata: dict[str, Any] = {}


class Ingester(Protocol):
    """Fetches public models for a hub."""

    def __call__(self, request: IngestRequest, folder: str) -> Ingested:
        """Write the model's files into `folder`, which is empty and on the hub's disk.

        Called in a thread of its own, once at a time per model; again after a restart of the hub.
        Raises `NoCompatibleArtifactError` when the model has no form that was asked for, and any
        other `WorkerError` when it cannot be had.
        """
        ...


class Ingests:
    """Has public models fetched, each once."""

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        publications: Publications,
        blobs: Blobs,
        *,
        root: str,
        now: Callable[[], float],
        work: Executor,
        ingester: Ingester | None,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._publications = publications
        self._blobs = blobs
        self._root = root
        self._now = now
        self._work = work
        self._ingester = ingester
        self._lock = threading.Lock()
        self._running: set[str] = set()

    def close(self) -> None:
        """Wait for what is being fetched."""
        self._work.shutdown(cancel_futures=True)

    def request(self, body: PublicBody, principal: Principal) -> Found | str:
        """Return the model, or the id of the task that fetches it.

        Raises:
            Refusal: 403, the caller may not have it fetched; 409, it has no form that was asked
                for; 502, it could not be had: asking again tries again.
        """
        try:
            ref = parse_prefixed_ref(body.model_ref)
        except ValidationError as error:
            raise Refusal(400, "invalid_ref", str(error)) from error
        if isinstance(ref, TensorhubRef):
            return self._own(ref, body.constraints, principal)
        key = _key(ref, body.constraints)
        row = self._database.row("SELECT * FROM ingests WHERE key = ?", key)
        if row is not None and row["state"] == "done":
            return self._done(row)
        if row is not None and row["state"] in ("failed", "unsuitable"):
            self._database.run("DELETE FROM ingests WHERE key = ?", key)
            raise _failure(row)
        if self._ingester is None or (principal.is_anonymous and not principal.may("write")):
            raise Refusal(
                403, "ingest_not_allowed", f"the hub does not have {body.model_ref!r:.200}, and "
                "does not fetch public models for this caller"
            )  # fmt: skip
        return self._start(key, ref, body.constraints, row)

    def _own(self, ref: TensorhubRef, asked: ConstraintsBody, principal: Principal) -> Found:
        """Answer for a model of this hub's own."""
        if not principal.may_read(ref.owner, ref.repo):
            raise Refusal(403, "forbidden", "the token may not read this repository")
        names = ("dtype", asked.dtypes), ("file_type", asked.file_types)
        question: dict[str, Any] = {"digest": ref.digest, "tag": ref.tag, "flavor": ref.flavor}
        found = self._catalog.resolve(ref.owner, ref.repo, msgspec.convert(question, Question))
        facts = found.checkpoint.facts
        for name, wanted in (*names, ("file_layout", asked.file_layouts)):
            told = getattr(facts, name)
            if wanted and told and told not in wanted and name != "dtype":
                raise Refusal(
                    409, "no_compatible_artifact", f"its {name} is {told!r}", debug={name: told}
                )
        return found

    def _start(self, key: str, ref: Ref, asked: ConstraintsBody, row: Row | None) -> str:
        with self._lock:
            if row is None:
                self._database.run(
                    "INSERT OR IGNORE INTO ingests (key, job_id, model_ref, state, created_at) "
                    "VALUES (?, ?, ?, 'running', ?)",
                    key,
                    secrets.token_hex(16),
                    str(ref),
                    self._now(),
                )
            known = self._database.row("SELECT job_id FROM ingests WHERE key = ?", key)
            assert known is not None, "just inserted, and removed only when it has failed"
            if key not in self._running:  # new, or left behind by a hub that was stopped
                self._running.add(key)
                self._work.submit(self._ingest, key, ref, asked)
            return str(known["job_id"])

    def _ingest(self, key: str, ref: Ref, asked: ConstraintsBody) -> None:
        folder = os.path.join(self._root, secrets.token_hex(16))
        try:
            os.makedirs(folder)
            checkpoint = self._fetch(ref, asked, folder)
        except NoCompatibleArtifactError as error:
            self._settle(key, "unsuitable", error=str(error))
        except (WorkerError, OSError) as error:
            self._settle(key, "failed", error=str(error))
        except BaseException as error:  # an ingester's own mistake; it must not be asked for ever
            self._settle(key, "failed", error=type(error).__name__)
            raise
        else:
            self._settle(key, "done", checkpoint=checkpoint)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with self._lock:
                self._running.discard(key)

    def _fetch(self, ref: Ref, asked: ConstraintsBody, folder: str) -> int:
        assert self._ingester is not None, "asked before"
        told = self._ingester(
            IngestRequest(
                ref=str(ref),
                provider=ref.provider,
                dtypes=tuple(preferred_dtypes(asked.dtypes)),
                file_types=asked.file_types,
                file_layouts=asked.file_layouts,
            ),
            folder,
        )
        folder = os.path.realpath(folder)
        # Links first: what they point to may be moved away afterwards.
        found = sorted(files_below(folder), key=lambda one: _is_own(one[0], one[1], folder))
        entries = [self._kept(path, relative, folder) for path, relative in found]
        flavor = FlavorBody(
            snapshot_manifest=tuple(entries),
            flavor=told.flavor or told.dtype,
            dtype=told.dtype,
            file_type=told.file_type,
            file_layout=told.file_layout,
            metadata={**told.metadata, "source": f"{ref.provider}:{ref}"},
        )
        body = FinalizeBody(checkpoint_flavors=(flavor,))
        return self._publications.publish(f"public-{ref.provider}", _name(ref, asked), body)

    def _kept(self, path: str, relative: str, folder: str) -> ManifestEntry:
        """Move a file among the blobs; what is only linked here is copied."""
        if not _is_own(path, relative, folder):
            path = shutil.copyfile(path, self._blobs.new_temporary())
        size, digest = os.stat(path).st_size, hash_file(path)
        self._blobs.adopt(path, digest)
        return ManifestEntry(path=relative, size_bytes=size, digest=digest)

    def _settle(
        self, key: str, state: str, *, checkpoint: int | None = None, error: str | None = None
    ) -> None:
        self._database.run(
            "UPDATE ingests SET state = ?, checkpoint = ?, error = ? WHERE key = ?",
            state,
            checkpoint,
            error,
            key,
        )

    def _done(self, row: Row) -> Found:
        known = self._database.row("SELECT * FROM checkpoints WHERE id = ?", row["checkpoint"])
        assert known is not None, "checkpoints with an ingest are kept"
        repo = self._database.row("SELECT * FROM repos WHERE id = ?", known["repo"])
        assert repo is not None, "the checkpoint refers to it"
        question = Question(digest=known["checkpoint_id"])
        return self._catalog.resolve(repo["owner"], repo["name"], question)


def _is_own(path: str, relative: str, folder: str) -> bool:
    return os.path.realpath(path) == os.path.join(folder, *relative.split("/"))


def _key(ref: Ref, asked: ConstraintsBody) -> str:
    return msgspec.json.encode([ref.provider, str(ref), asked]).decode()


def _name(ref: Ref, asked: ConstraintsBody) -> str:
    """Name a repository after a public one; other constraints make another repository."""
    from blake3 import blake3

    plain = _NOT_NAME.sub("--", str(ref).lower()).strip("-._")[:70]
    return f"{plain}-{blake3(_key(ref, asked).encode()).hexdigest()[:12]}"


def _failure(row: Row) -> Refusal:
    if row["state"] == "unsuitable":
        return Refusal(
            409, "no_compatible_artifact", row["error"], debug={"model_ref": row["model_ref"]}
        )
    return Refusal(502, "ingest_failed", f"{row['model_ref']!r} could not be had: {row['error']}")
