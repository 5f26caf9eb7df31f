"""Revisions: opened, filled with uploads, then published by one finalize or aborted."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.models.hub.local.facts import FileFacts, file_facts
from gen_worker.models.hub.local.finalize import (
    decode_finalize,
    facts_of,
    invalid,
    is_usable,
    label_of,
    labels_of,
    problems_of,
)
from gen_worker.models.hub.local.names import check_repo, check_tag
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.rooms import rfc3339
from gen_worker.models.hub.wire import LATEST
from gen_worker.models.snapshot import Snapshot, SnapshotFile, parse_blake3, snapshot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gen_worker.models.hub.local.blobs import Blobs
    from gen_worker.models.hub.local.catalog import Catalog, Facts
    from gen_worker.models.hub.local.database import Database, Row
    from gen_worker.models.hub.local.requests import FinalizeBody, FlavorBody, OpenBody

__all__ = ["Publications"]

_MAX_FILES = 100_000
_log = logging.getLogger("gen_worker.models.hub")


class _Member(NamedTuple):
    """One checkpoint about to be published."""

    snapshot: Snapshot
    labels: tuple[str, ...]
    facts: Facts
    files: tuple[tuple[str, str, int], ...]


class Publications:
    """The life of revisions."""

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        blobs: Blobs,
        *,
        now: Callable[[], float],
        ttl_s: float,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._blobs = blobs
        self._now = now
        self._ttl_s = ttl_s

    def open(self, owner: str, name: str, body: OpenBody) -> dict[str, Any]:
        owner, name = check_repo(owner, name)
        revision, now = secrets.token_hex(16), self._now()
        self._database.run(
            "INSERT INTO revisions (id, owner, name, state, facts, created_at, expires_at) "
            "VALUES (?, ?, ?, 'open', ?, ?, ?)",
            revision,
            owner,
            name,
            msgspec.json.encode(body).decode(),
            now,
            now + self._ttl_s,
        )
        return {"session_id": revision, "expires_at": rfc3339(now + self._ttl_s)}

    def need(self, owner: str, name: str, revision: str) -> Row:
        """Return the record of a revision of this repository."""
        row = self._database.row(
            "SELECT * FROM revisions WHERE id = ? AND owner = ? AND name = ?",
            revision,
            *check_repo(owner, name),
        )
        if row is None:
            raise Refusal(404, "revision_not_found", f"there is no revision {revision!r:.80}")
        return row

    def need_open(self, owner: str, name: str, revision: str) -> Row:
        """Return the record of a revision that takes uploads.

        Raises:
            Refusal: 404, or 409 when it is finalized, aborted or has expired.
        """
        row = self.need(owner, name, revision)
        if row["state"] not in ("open", "failed"):
            raise Refusal(
                409, "revision_not_open", f"the revision is {row['state']}: open a new one"
            )
        if self._now() >= row["expires_at"]:
            raise Refusal(409, "revision_expired", "the revision has expired: open a new one")
        return row

    def describe(self, row: Row) -> dict[str, Any]:
        state = row["state"]
        status = {"finalized": "succeeded", "failed": "failed", "finalizing": "pending"}.get(state)
        document = {
            "session_id": row["id"],
            "state": state,
            "expires_at": rfc3339(row["expires_at"]),
        }
        if status:
            document["finalize_status"] = status
        if row["answer"]:
            document["finalize_result"] = msgspec.json.decode(row["answer"])
        if row["error"]:
            document["finalize_error"] = msgspec.json.decode(row["error"])
        return document

    def abort(self, owner: str, name: str, revision: str) -> None:
        """Give a revision up; one that is finalized stays, and to abort twice is no mistake."""
        with self._database.writing():
            row = self.need(owner, name, revision)
            if row["state"] in ("finalized", "finalizing"):
                raise Refusal(409, "revision_finalized", "the revision is published")
            self._database.run("UPDATE revisions SET state = 'aborted' WHERE id = ?", revision)
            self._database.run(
                "DELETE FROM uploads WHERE revision = ? AND state = 'open'", revision
            )

    def begin(
        self, owner: str, name: str, revision: str, request: bytes, usable: Callable[[str], bool]
    ) -> Row:
        """Take a finalize in; the same one again changes nothing.

        Args:
            owner: Of the repository.
            name: Of the repository.
            revision: Which one to publish.
            request: The body as it was sent.
            usable: Whether the sender may publish the blob of a digest.

        Returns:
            The revision's record: `finalizing` until `commit` was called for it.

        Raises:
            Refusal: The body is wrong, or the revision cannot be published any more.
        """
        body = decode_finalize(request)
        with self._database.writing():
            row = self.need(owner, name, revision)
            if row["state"] in ("finalized", "finalizing"):
                if decode_finalize(row["request"]) != body:
                    raise Refusal(
                        409, "revision_finalized", "the revision was published with another content"
                    )
                return row
            self.need_open(owner, name, revision)
            refused = sorted(
                {entry.digest or entry.blake3 for flavor in body.checkpoint_flavors
                 for entry in flavor.entries if not is_usable(entry, usable)}
            )  # fmt: skip
            if refused:
                raise Refusal(
                    409,
                    "blob_missing",
                    f"{len(refused)} files were not uploaded, {refused[0]!r:.120} is one of them",
                    digests=refused[:100],
                )
            self._plan(owner, name, body)
            self._database.run(
                "UPDATE revisions SET state = 'finalizing', request = ?, error = NULL WHERE id = ?",
                request,
                revision,
            )
            return self.need(owner, name, revision)

    def commit(self, revision: str) -> Row:
        """Publish a revision that is `finalizing`: all of it in one transaction."""
        with self._database.writing():
            row = self._database.row("SELECT * FROM revisions WHERE id = ?", revision)
            assert row is not None, "begun"
            if row["state"] != "finalizing":
                return row
            try:
                answer = self._publish(row)
            except Refusal as refusal:
                self._settle(revision, "failed", error=refusal.to_dict())
            else:
                self._settle(revision, "finalized", answer=answer)
            return self.need(row["owner"], row["name"], revision)

    def commit_later(self, revision: str) -> None:
        """Do so in a thread nobody waits for; what fails is tried again by the next hub."""
        try:
            self.commit(revision)
        except Exception:
            _log.exception("revision %s could not be published", revision)

    def unfinished(self) -> tuple[str, ...]:
        """Return the revisions that were being published when the hub stopped."""
        rows = self._database.rows("SELECT id FROM revisions WHERE state = 'finalizing'")
        return tuple(row["id"] for row in rows)

    def publish(self, owner: str, name: str, body: FinalizeBody) -> int:
        """Publish without a revision, as the hub itself does; return the first checkpoint's row."""
        with self._database.writing():
            _, rows, _ = self._write(owner, name, body)
            return rows[0]

    def _settle(self, revision: str, state: str, *, answer: Any = None, error: Any = None) -> None:
        self._database.run(
            "UPDATE revisions SET state = ?, answer = ?, error = ? WHERE id = ?",
            state,
            msgspec.json.encode(answer).decode() if answer else None,
            msgspec.json.encode(error).decode() if error else None,
            revision,
        )

    def _publish(self, row: Row) -> dict[str, Any]:
        body = decode_finalize(row["request"])
        members, _, seq = self._write(row["owner"], row["name"], body)
        return {
            "checkpoints": [
                {"checkpoint_id": member.snapshot.checkpoint_id, "flavor": member.labels[0]}
                for member in members
            ],
            "repo_revision_seq": seq,
        }

    def _write(
        self, owner: str, name: str, body: FinalizeBody
    ) -> tuple[list[_Member], list[int], int]:
        members = [self._with_file_facts(one) for one in self._plan(owner, name, body)]
        repo = self._catalog.add_repo(owner, name)
        rows = [self._row_of(repo, member) for member in members]
        labels = {
            label: row for member, row in zip(members, rows, strict=True) for label in member.labels
        }
        release = self._catalog.add_release(repo, labels)
        first = members[0].labels[0]
        known = self._catalog.members(release)
        self._catalog.point(repo, LATEST, release, first)
        for group in body.all_tags:
            default = label_of(group.default_flavor) or first
            if default not in known:
                raise invalid([f"tag {group.tag!r:.80}: there is no flavor {default!r:.80}"])
            self._catalog.point(repo, check_tag(group.tag), release, default)
        found = self._database.row("SELECT seq FROM releases WHERE id = ?", release)
        assert found is not None, "just written"
        return members, rows, found["seq"]

    def _row_of(self, repo: int, member: _Member) -> int:
        """Return the row of a checkpoint; the same one published again is not stored twice."""
        facts = msgspec.json.encode(member.facts).decode()
        row = self._database.row(
            "SELECT id FROM checkpoints "
            "WHERE repo = ? AND checkpoint_id = ? AND flavor = ? AND facts = ?",
            repo,
            member.snapshot.checkpoint_id,
            member.labels[0],
            facts,
        )
        if row is not None:
            return int(row["id"])
        return self._catalog.add_checkpoint(
            repo, member.snapshot.checkpoint_id, member.labels[0], member.facts, member.files
        )

    def _plan(self, owner: str, name: str, body: FinalizeBody) -> list[_Member]:
        """Check everything and return what is to be written.

        Raises:
            Refusal: 422 with every mistake, or 409 when a blob is missing.
        """
        problems = list(problems_of(body))
        repo = self._catalog.repo(owner, name)
        members: list[_Member] = []
        for index, flavor in enumerate(body.checkpoint_flavors):
            try:
                members.append(self._member(repo, flavor))
            except ValidationError as error:
                problems.append(f"checkpoint_flavors[{index}]: {error}")
        if not body.auto_create_external_parent:
            problems += self._unknown_parents(body)
        if problems:
            raise invalid(problems)
        self._check_blobs(members)
        return members

    def _member(self, repo: int | None, flavor: FlavorBody) -> _Member:
        labels = labels_of(flavor)
        latest = self._catalog.latest_member(repo, labels[0]) if repo is not None else None
        old = self._catalog.files(latest.row) if latest else ()
        merged = {path: (digest, size) for path, digest, size in old}
        for entry in flavor.entries:
            digest = parse_blake3(entry.digest or entry.blake3)
            file = SnapshotFile(path=entry.path, size_bytes=entry.size_bytes, blake3=digest)
            merged[file.path] = (digest, entry.size_bytes)
        for path in flavor.deletions:
            merged.pop(path, None)
        if len(merged) > _MAX_FILES:
            raise ValidationError(f"{len(merged)} files, at most {_MAX_FILES} are taken")
        if not merged:
            raise ValidationError("the checkpoint would have no files")
        files = [
            SnapshotFile(path=path, size_bytes=size, blake3=digest)
            for path, (digest, size) in merged.items()
        ]
        snapshot = snapshot_of(files)
        return _Member(
            snapshot,
            labels,
            facts_of(flavor, labels),
            tuple((file.path, file.blake3, file.size_bytes) for file in snapshot.files),
        )

    def _check_blobs(self, members: Sequence[_Member]) -> None:
        """Every blob is here and as long as said. Inside the transaction: nothing removes one."""
        missing, wrong = [], []
        for path, digest, size in {file for member in members for file in member.files}:
            actual = self._blobs.size(digest)
            if actual is None:
                missing.append(f"blake3:{digest}")
            elif actual != size:
                wrong.append(f"file {path!r:.200} has {actual} bytes, the manifest says {size}")
        if wrong:
            raise invalid(sorted(wrong))
        if missing:
            raise Refusal(
                409,
                "blob_missing",
                f"{len(missing)} files were not uploaded, {min(missing)!r} is one of them",
                digests=sorted(missing)[:100],
            )

    def _with_file_facts(self, member: _Member) -> _Member:
        told, found = member.facts, file_facts(member.files, self._blobs.path)
        filled = {
            name: getattr(told, name) or getattr(found, name)
            for name in FileFacts.__struct_fields__
        }
        return member._replace(facts=msgspec.structs.replace(told, **filled))

    def _unknown_parents(self, body: FinalizeBody) -> Iterator[str]:
        for index, flavor in enumerate(body.checkpoint_flavors):
            for edge in flavor.lineage:
                owner, _, name = edge.parent_repo.partition("/")
                if self._catalog.repo(owner, name) is None:
                    parent = f"{edge.parent_repo!r:.120}"
                    yield f"checkpoint_flavors[{index}].lineage: there is no {parent}"
