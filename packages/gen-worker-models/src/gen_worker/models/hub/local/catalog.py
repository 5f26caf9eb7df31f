"""What is published: repositories, checkpoints, tags; and what a question for one is answered.

A publication makes a release: every flavor of the one before, with those published now in their
place. Tags, `latest` too, point to releases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.models.hub.local.names import check_repo
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.wire import LATEST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.models.hub.local.database import Database, Row

__all__ = ["Catalog", "Checkpoint", "Facts", "Found", "Question"]


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a checkpoint besides its files."""

    flavors: tuple[str, ...] = ()
    display_label: str = ""
    dtype: str = ""
    file_layout: str = ""
    file_type: str = ""
    pipeline_class: str = ""
    libraries: tuple[str, ...] = ()
    """Of those workers report as installed, the ones it cannot be loaded without."""
    metadata: Mapping[str, Any] = {}
    lineage: tuple[Mapping[str, Any], ...] = ()


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One published checkpoint."""

    row: int
    checkpoint_id: str
    flavor: str
    facts: Facts
    created_at: float


class Attributes(msgspec.Struct, frozen=True, kw_only=True):
    """Axes to choose by; empty ones do not count."""

    dtype: str = ""
    file_type: str = ""
    file_layout: str = ""


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of itself."""

    installed_libs: tuple[str, ...] | None = None


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a `resolve`: the first of digest, attributes and tag that is given counts."""

    digest: str = ""
    tag: str = ""
    flavor: str = ""
    attributes: Attributes | None = None
    capabilities: Abilities | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a question."""

    checkpoint: Checkpoint
    files: tuple[tuple[str, str, int], ...]
    """Path, BLAKE3 and size of each."""
    seq: int
    flavors: tuple[str, ...]
    tags: tuple[str, ...]


class Catalog:
    """Reads and changes what is published. Changing is done inside `Database.writing`."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now

    def repo(self, owner: str, name: str) -> int | None:
        row = self._database.row(
            "SELECT id FROM repos WHERE owner = ? AND name = ?", *check_repo(owner, name)
        )
        return row["id"] if row else None

    def need_repo(self, owner: str, name: str) -> int:
        repo = self.repo(owner, name)
        if repo is None:
            raise Refusal(404, "repo_not_found", f"there is no repository '{owner}/{name}'")
        return repo

    def add_repo(self, owner: str, name: str) -> int:
        """Return the repository's row, which is made when there is none."""
        owner, name = check_repo(owner, name)
        self._database.run(
            "INSERT OR IGNORE INTO repos (owner, name, created_at) VALUES (?, ?, ?)",
            owner,
            name,
            self._now(),
        )
        return self.need_repo(owner, name)

    def resolve(self, owner: str, name: str, question: Question) -> Found:
        """Answer a question.

        Raises:
            Refusal: 404 with the code of the part that does not exist, or 409 when nothing suits.
        """
        with self._database.reading():
            repo = self.need_repo(owner, name)
            flavor = question.flavor.strip().lower()
            asked = question.attributes
            if question.digest:
                checkpoint = self._by_digest(repo, question.digest, flavor)
            elif asked is not None and asked != Attributes():
                checkpoint = self._by_attributes(repo, asked, flavor)
            else:
                checkpoint = self._by_tag(repo, question.tag.strip().lower() or LATEST, flavor)
            _check_abilities(checkpoint, question.capabilities)
            return self.found(repo, checkpoint)

    def found(self, repo: int, checkpoint: Checkpoint) -> Found:
        release = self._newest_release_with(checkpoint.row)
        return Found(
            checkpoint=checkpoint,
            files=self.files(checkpoint.row),
            seq=release["seq"] if release else 0,
            flavors=tuple(self.members(release["id"])) if release else (),
            tags=self.tags(repo),
        )

    def files(self, checkpoint: int) -> tuple[tuple[str, str, int], ...]:
        rows = self._database.rows(
            "SELECT path, blake3, size_bytes FROM entries WHERE checkpoint = ? ORDER BY path",
            checkpoint,
        )
        return tuple((row["path"], row["blake3"], row["size_bytes"]) for row in rows)

    def tags(self, repo: int) -> tuple[str, ...]:
        rows = self._database.rows("SELECT tag FROM tags WHERE repo = ? ORDER BY tag", repo)
        return tuple(row["tag"] for row in rows)

    def need_tag(self, repo: int, tag: str) -> Row:
        row = self._database.row("SELECT * FROM tags WHERE repo = ? AND tag = ?", repo, tag)
        if row is None:
            raise Refusal(
                404, "tag_not_found", f"there is no tag {tag!r:.120}", available=self.tags(repo)
            )
        return row

    def members(self, release: int) -> dict[str, Checkpoint]:
        """Return the checkpoints of a release by label."""
        rows = self._database.rows(
            "SELECT label, c.* FROM members JOIN checkpoints c ON c.id = checkpoint "
            "WHERE release = ? ORDER BY label",
            release,
        )
        return {row["label"]: _checkpoint(row) for row in rows}

    def point(self, repo: int, tag: str, release: int, default_flavor: str) -> None:
        self._database.run(
            "INSERT INTO tags (repo, tag, release, default_flavor, moved_at) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT (repo, tag) DO UPDATE SET "
            "release = excluded.release, default_flavor = excluded.default_flavor, "
            "moved_at = excluded.moved_at",
            repo,
            tag,
            release,
            default_flavor,
            self._now(),
        )

    def point_to_checkpoint(self, repo: int, tag: str, checkpoint_id: str) -> None:
        """Move a tag to the newest release that has the checkpoint.

        Raises:
            Refusal: 404, there is no such checkpoint.
        """
        checkpoint = self._by_digest(repo, checkpoint_id, "")
        release = self._newest_release_with(checkpoint.row)
        if release is None:
            raise _no_checkpoint(checkpoint_id)
        self.point(repo, tag, release["id"], checkpoint.flavor)

    def add_checkpoint(
        self,
        repo: int,
        checkpoint_id: str,
        flavor: str,
        facts: Facts,
        files: Sequence[tuple[str, str, int]],
    ) -> int:
        row = self._database.run(
            "INSERT INTO checkpoints (repo, checkpoint_id, flavor, facts, created_at) "
            "VALUES (?, ?, ?, ?, ?)",
            repo,
            checkpoint_id,
            flavor,
            msgspec.json.encode(facts).decode(),
            self._now(),
        )
        self._database.run_all(
            "INSERT INTO entries (checkpoint, path, blake3, size_bytes) VALUES (?, ?, ?, ?)",
            [(row, *file) for file in files],
        )
        return row

    def add_release(self, repo: int, members: Mapping[str, int]) -> int:
        """Add a release of the labels given, and of the others that `latest` has."""
        latest = self._database.row(
            "SELECT release FROM tags WHERE repo = ? AND tag = ?", repo, LATEST
        )
        kept = self.members(latest["release"]) if latest else {}
        merged = {label: checkpoint.row for label, checkpoint in kept.items()} | dict(members)
        release = self._database.run(
            "INSERT INTO releases (repo, seq, created_at) SELECT ?, "
            "1 + coalesce((SELECT max(seq) FROM releases WHERE repo = ?), 0), ?",
            repo,
            repo,
            self._now(),
        )
        self._database.run_all(
            "INSERT INTO members (release, label, checkpoint) VALUES (?, ?, ?)",
            [(release, label, row) for label, row in merged.items()],
        )
        return release

    def latest_member(self, repo: int, label: str) -> Checkpoint | None:
        """Return the checkpoint of a flavor under `latest`."""
        tag = self._database.row(
            "SELECT release FROM tags WHERE repo = ? AND tag = ?", repo, LATEST
        )
        return self.members(tag["release"]).get(label) if tag else None

    def repos_with(self, digest: str) -> tuple[tuple[str, str], ...]:
        """Return the repositories and datasets that have a blob, published or just uploaded."""
        rows = self._database.rows(
            "SELECT owner, name FROM entries JOIN checkpoints c ON c.id = checkpoint "
            "JOIN repos r ON r.id = c.repo WHERE blake3 = ? UNION "
            "SELECT owner, name FROM uploads "
            "WHERE blake3 = ? AND domain = 'repo' AND state = 'complete' UNION "
            "SELECT owner, name FROM dataset_blobs JOIN datasets d ON d.id = dataset "
            "WHERE blake3 = ?",
            digest,
            digest,
            digest,
        )
        return tuple((row["owner"], row["name"]) for row in rows)

    def _by_digest(self, repo: int, digest: str, flavor: str) -> Checkpoint:
        checkpoint_id = digest.strip().lower()
        if ":" not in checkpoint_id:
            checkpoint_id = f"blake3:{checkpoint_id}"
        rows = self._database.rows(
            "SELECT * FROM checkpoints WHERE repo = ? AND checkpoint_id = ? ORDER BY id DESC",
            repo,
            checkpoint_id,
        )
        if not rows:
            raise _no_checkpoint(digest)
        found = [_checkpoint(row) for row in rows]
        if not flavor:
            return found[0]
        for checkpoint in found:
            if flavor in checkpoint.facts.flavors:
                return checkpoint
        # A digest names one checkpoint; beside it, a flavor chooses among its siblings.
        release = self._newest_release_with(found[0].row)
        return _member(self.members(release["id"]) if release else {}, flavor)

    def _by_tag(self, repo: int, tag: str, flavor: str) -> Checkpoint:
        pointer = self.need_tag(repo, tag)
        members = self.members(pointer["release"])
        return _member(members, flavor or pointer["default_flavor"])

    def _by_attributes(self, repo: int, asked: Attributes, flavor: str) -> Checkpoint:
        rows = self._database.rows(
            "SELECT * FROM checkpoints WHERE repo = ? ORDER BY id DESC", repo
        )
        known = [_checkpoint(row) for row in rows]
        for checkpoint in known:
            if _has(checkpoint.facts, asked) and (not flavor or flavor in checkpoint.facts.flavors):
                return checkpoint
        raise Refusal(
            409,
            "no_compatible_artifact",
            "no checkpoint has what was asked for",
            debug={"asked": asked, "flavor": flavor, "available": _forms(known)},
        )

    def _newest_release_with(self, checkpoint: int) -> Row | None:
        return self._database.row(
            "SELECT r.* FROM members JOIN releases r ON r.id = release "
            "WHERE checkpoint = ? ORDER BY seq DESC LIMIT 1",
            checkpoint,
        )


def _checkpoint(row: Row) -> Checkpoint:
    return Checkpoint(
        row=row["id"],
        checkpoint_id=row["checkpoint_id"],
        flavor=row["flavor"],
        facts=msgspec.json.decode(row["facts"], type=Facts),
        created_at=row["created_at"],
    )


def _member(members: Mapping[str, Checkpoint], flavor: str) -> Checkpoint:
    if flavor not in members:
        raise Refusal(
            404,
            "flavor_not_found",
            f"there is no flavor {flavor!r:.120}",
            available=sorted(members),
        )
    return members[flavor]


def _has(facts: Facts, asked: Attributes) -> bool:
    axes = ((getattr(asked, name), getattr(facts, name)) for name in asked.__struct_fields__)
    return all(not wanted or wanted.strip().lower() == value.lower() for wanted, value in axes)


def _forms(known: Sequence[Checkpoint]) -> list[dict[str, str]]:
    return [
        {
            "checkpoint_id": checkpoint.checkpoint_id,
            "flavor": checkpoint.flavor,
            "dtype": checkpoint.facts.dtype,
            "file_type": checkpoint.facts.file_type,
            "file_layout": checkpoint.facts.file_layout,
        }
        for checkpoint in known[:50]
    ]


def _check_abilities(checkpoint: Checkpoint, abilities: Abilities | None) -> None:
    """Refuse what a worker that told what it has could not load."""
    if abilities is None or abilities.installed_libs is None:
        return
    missing = sorted(set(checkpoint.facts.libraries) - set(abilities.installed_libs))
    if missing:
        raise Refusal(
            409,
            "no_compatible_artifact",
            f"the checkpoint needs {', '.join(missing)}, which the worker does not have",
            debug={"checkpoint_id": checkpoint.checkpoint_id, "missing_libs": missing},
        )


def _no_checkpoint(digest: str) -> Refusal:
    return Refusal(404, "checkpoint_not_found", f"there is no checkpoint {digest!r:.120}")
