"""Datasets: named rows whose every revision stays as it was published (route 11)."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.models.hub.local.asgi import Answer
from gen_worker.models.hub.local.names import check_repo, check_tag
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.requests import DatasetBody
from gen_worker.models.hub.local.rooms import document
from gen_worker.models.hub.local.routing import Route
from gen_worker.models.hub.wire import DATASET_FILES
from gen_worker.models.snapshot import SnapshotFile, parse_blake3

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.models.hub.local.asgi import Call
    from gen_worker.models.hub.local.database import Row
    from gen_worker.models.hub.local.rooms import Rooms

__all__ = ["DatasetRoutes"]

_VISIBILITIES = ("private", "public")


class DatasetRoutes:
    """Keeps datasets."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def table(self) -> Sequence[Route]:
        return (
            Route("GET", "/api/v1/datasets", "read", self.list),
            Route("POST", "/api/v1/datasets", "write", self.create),
            Route("GET", "/api/v1/datasets/{dataset}", "read", self.get),
            Route("PATCH", "/api/v1/datasets/{dataset}", "write", self.update),
        )

    def list(self, call: Call) -> Answer:
        owner = check_repo(call.query.get("owner", ""), "datasets")[0]
        call.principal.check_owner(owner, "read")
        rows = self._rooms.database.rows(
            "SELECT * FROM datasets WHERE owner = ? ORDER BY name", owner
        )
        return Answer({"items": [self._described(row) for row in rows]})

    def get(self, call: Call) -> Answer:
        """Describe a dataset as it is now, or as it was in one revision."""
        row, seq = self._need(call, "read"), call.query.get("revision", "")
        if seq and not (seq.isdecimal() and len(seq) < 10):
            raise Refusal(400, "invalid_revision", f"{seq!r:.40} is no number of a revision")
        return Answer(self._described(row, int(seq) if seq else None))

    def create(self, call: Call) -> Answer:
        body = call.read(DatasetBody)
        owner, name = check_repo(body.owner, body.name)
        call.principal.check_owner(owner, "write")
        with self._rooms.database.writing():
            known = self._rooms.database.row(
                "SELECT id FROM datasets WHERE owner = ? AND name = ?", owner, name
            )
            if known is not None:
                raise Refusal(
                    409, "dataset_exists", f"there is a dataset '{owner}/{name}'", id=known["id"]
                )
            dataset = secrets.token_hex(16)
            self._rooms.database.run(
                "INSERT INTO datasets (id, owner, name, created_at) VALUES (?, ?, ?, ?)",
                dataset,
                owner,
                name,
                self._rooms.now(),
            )
            self._add_revision(call, dataset, {"visibility": "private", "schema": {}}, body)
            row = self._rooms.database.row("SELECT * FROM datasets WHERE id = ?", dataset)
            assert row is not None, "made just now"
        return Answer(self._described(row), status=201)

    def update(self, call: Call) -> Answer:
        """Add a revision and move tags to it; the ones before stay readable."""
        body = call.read(DatasetBody)
        with self._rooms.database.writing():
            row = self._need(call, "write")
            self._add_revision(call, row["id"], self._newest(row["id"])[1], body)
        return Answer(self._described(row))

    def _add_revision(
        self, call: Call, dataset: str, before: dict[str, Any], body: DatasetBody
    ) -> None:
        after = {name: value for name, value in before.items() if name != "tags"}
        if body.visibility is not None:
            if body.visibility not in _VISIBILITIES:
                raise Refusal(
                    400, "invalid_visibility", f"{body.visibility!r:.40}: private or public"
                )
            after["visibility"] = body.visibility
        if body.schema is not None:
            after["schema"] = body.schema
            self._keep_blobs(call, dataset, body.schema.get(DATASET_FILES))
        if body.row_artifacts is not None:
            after["row_artifacts"] = body.row_artifacts
        text = msgspec.json.encode(after, order="deterministic")
        row = self._rooms.database.row(
            "SELECT 1 + coalesce(max(seq), 0) AS seq FROM dataset_revisions WHERE dataset = ?",
            dataset,
        )
        assert row is not None, "an aggregate"
        moved = dict.fromkeys(map(check_tag, body.tags), row["seq"])
        tagged = {**after, "tags": {**before.get("tags", {}), **moved}}
        from blake3 import blake3

        self._rooms.database.run(
            "INSERT INTO dataset_revisions (dataset, seq, digest, document, created_at) "
            "VALUES (?, ?, ?, ?, ?)",
            dataset,
            row["seq"],
            f"blake3:{blake3(text).hexdigest()}",
            msgspec.json.encode(tagged).decode(),
            self._rooms.now(),
        )

    def _keep_blobs(self, call: Call, dataset: str, manifest: Any) -> None:
        """Check the list of a dataset's files, and keep their blobs from being collected."""
        if manifest is None:
            return
        digests = set()
        try:
            for entry in manifest:
                digest = parse_blake3(entry["digest"])
                SnapshotFile(path=entry["path"], size_bytes=entry["size_bytes"], blake3=digest)
                digests.add(digest)
        except ValidationError as error:
            raise Refusal(422, "invalid_manifest", f"{DATASET_FILES}: {error}") from error
        except (TypeError, KeyError, AttributeError) as error:
            raise Refusal(
                422, "invalid_manifest", f"{DATASET_FILES} is no list of path, digest, size_bytes"
            ) from error
        missing = sorted(digest for digest in digests if not self._is_here(call, digest))
        if missing:
            raise Refusal(
                409,
                "blob_missing",
                f"{len(missing)} files were not uploaded",
                digests=missing[:100],
            )
        self._rooms.database.run_all(
            "INSERT OR IGNORE INTO dataset_blobs (dataset, blake3) VALUES (?, ?)",
            [(dataset, digest) for digest in digests],
        )

    def _is_here(self, call: Call, digest: str) -> bool:
        rooms = self._rooms
        return rooms.blobs.size(digest) is not None and rooms.may_list_blob(call.principal, digest)

    def _described(self, row: Row, seq: int | None = None) -> dict[str, Any]:
        revision, known = self._newest(row["id"], seq)
        schema = known["schema"]
        return {
            "id": row["id"],
            "owner": row["owner"],
            "name": row["name"],
            "features": schema.get("features", {}),
            "revision": revision["seq"],
            "revision_digest": revision["digest"],
            **known,
        }

    def _newest(self, dataset: str, seq: int | None = None) -> tuple[Row, dict[str, Any]]:
        row = self._rooms.database.row(
            "SELECT * FROM dataset_revisions WHERE dataset = ? AND (? IS NULL OR seq = ?) "
            "ORDER BY seq DESC LIMIT 1",
            dataset,
            seq,
            seq,
        )
        if row is None:
            raise Refusal(404, "revision_not_found", f"there is no revision {seq}")
        return row, document(row["document"])

    def _need(self, call: Call, scope: str) -> Row:
        row = self._rooms.database.row(
            "SELECT * FROM datasets WHERE id = ?", call.params["dataset"]
        )
        if row is None:
            raise Refusal(404, "dataset_not_found", "there is no such dataset")
        call.principal.check_owner(row["owner"], scope)
        return row
