"""Reading what is published, moving tags, metadata: routes 1, 1b, 2 and 8 to 10."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.models.hub.local.asgi import Answer
from gen_worker.models.hub.local.catalog import Found, Question
from gen_worker.models.hub.local.names import check_tag
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.requests import MetadataBody, PublicBody, TagBody
from gen_worker.models.hub.local.rooms import document
from gen_worker.models.hub.local.routing import Route
from gen_worker.models.hub.wire import LATEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.models.hub.local.asgi import Call
    from gen_worker.models.hub.local.rooms import Rooms

__all__ = ["ModelRoutes", "resolution"]

_REPO = "/api/v1/repos/{owner}/{repo}"
_POLL_S = 1


class ModelRoutes:
    """Answers questions about models."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def table(self) -> Sequence[Route]:
        return (
            Route("POST", f"{_REPO}/resolve", "read-repo", self.resolve),
            Route(
                "POST",
                "/api/v1/inference/repos/{owner}/{repo}/resolve",
                "read-repo",
                self.resolve,
            ),
            Route("POST", "/api/v1/public/models/request", "read", self.request_public),
            Route("GET", "/api/v1/repos", "read", self.list_repos),
            Route("GET", _REPO, "read-repo", self.describe),
            Route("PUT", f"{_REPO}/tags", "write-repo", self.move_tag),
            Route("DELETE", f"{_REPO}/tags", "write-repo", self.remove_tag),
            Route("GET", f"{_REPO}/tree", "read-repo", self.tree),
            Route("GET", f"{_REPO}/metadata", "read-repo", self.metadata),
            Route("PUT", f"{_REPO}/metadata", "write-repo", self.put_metadata),
        )

    def resolve(self, call: Call) -> Answer:
        found = self._rooms.catalog.resolve(
            call.params["owner"], call.params["repo"], call.read(Question)
        )
        return Answer(resolution(self._rooms, call, found))

    def request_public(self, call: Call) -> Answer:
        body = call.read(PublicBody)
        outcome = self._rooms.ingests.request(body, call.principal)
        if isinstance(outcome, str):
            return Answer(
                {"ingest_job_id": outcome, "retry_after_seconds": _POLL_S},
                status=202,
                headers={"retry-after": str(_POLL_S)},
            )
        return Answer(resolution(self._rooms, call, outcome, with_urls=body.include_urls))

    def list_repos(self, call: Call) -> Answer:
        rows = self._rooms.database.rows("SELECT owner, name FROM repos ORDER BY owner, name")
        owner = call.query.get("owner", "").lower()
        items = [
            self._summary(row["owner"], row["name"])
            for row in rows
            if (not owner or row["owner"] == owner)
            and call.principal.may_read(row["owner"], row["name"])
        ]
        return Answer({"items": items})

    def describe(self, call: Call) -> Answer:
        return Answer(self._summary(call.params["owner"], call.params["repo"]))

    def move_tag(self, call: Call) -> Answer:
        tag = check_tag(call.query.get("tag", ""))
        body = call.read(TagBody)
        catalog = self._rooms.catalog
        with self._rooms.database.writing():
            repo = catalog.need_repo(call.params["owner"], call.params["repo"])
            catalog.point_to_checkpoint(repo, tag, body.checkpoint_id)
        return Answer({"tag": tag, "checkpoint_id": body.checkpoint_id})

    def remove_tag(self, call: Call) -> Answer:
        tag = check_tag(call.query.get("tag", ""))
        catalog = self._rooms.catalog
        with self._rooms.database.writing():
            repo = catalog.need_repo(call.params["owner"], call.params["repo"])
            catalog.need_tag(repo, tag)
            self._rooms.database.run("DELETE FROM tags WHERE repo = ? AND tag = ?", repo, tag)
        return Answer({"tag": tag})

    def tree(self, call: Call) -> Answer:
        """List the files under a tag: of one flavor, or of all, the default's first."""
        catalog = self._rooms.catalog
        with self._rooms.database.reading():
            repo = catalog.need_repo(call.params["owner"], call.params["repo"])
            tag = catalog.need_tag(repo, call.query.get("tag", "").lower() or LATEST)
            members = catalog.members(tag["release"])
            wanted = call.query.get("flavor", "").lower()
            labels = [wanted] if wanted else [tag["default_flavor"], *members]
            entries: dict[str, Any] = {}
            for label in labels:
                if label not in members:
                    raise Refusal(
                        404, "flavor_not_found", f"no flavor {label!r:.120}", available=[*members]
                    )
                for path, digest, size in catalog.files(members[label].row):
                    entry = {"path": path, "digest": f"blake3:{digest}", "size_bytes": size}
                    entries.setdefault(path, entry | {"flavor": label})
        return Answer({"entries": [entries[path] for path in sorted(entries)]})

    def metadata(self, call: Call) -> Answer:
        row = self._rooms.database.row(
            "SELECT metadata FROM repos WHERE owner = ? AND name = ?",
            call.params["owner"],
            call.params["repo"],
        )
        known = document(row["metadata"]) if row and row["metadata"] else {}
        return Answer({"exists": row is not None, "metadata": known})

    def put_metadata(self, call: Call) -> Answer:
        body = call.read(MetadataBody)
        with self._rooms.database.writing():
            repo = self._rooms.catalog.add_repo(call.params["owner"], call.params["repo"])
            self._rooms.database.run(
                "UPDATE repos SET metadata = ? WHERE id = ?",
                msgspec.json.encode(body.metadata).decode(),
                repo,
            )
        return Answer({"metadata": body.metadata})

    def _summary(self, owner: str, name: str) -> dict[str, Any]:
        catalog = self._rooms.catalog
        with self._rooms.database.reading():
            repo = catalog.need_repo(owner, name)
            tags = []
            for tag in catalog.tags(repo):
                pointer = catalog.need_tag(repo, tag)
                members = catalog.members(pointer["release"])
                tags.append(
                    {
                        "tag": tag,
                        "default_flavor": pointer["default_flavor"],
                        "flavors": {
                            label: {
                                "checkpoint_id": checkpoint.checkpoint_id,
                                "size_bytes": _size(catalog.files(checkpoint.row)),
                            }
                            for label, checkpoint in members.items()
                        },
                    }
                )
        return {"owner": owner, "name": name, "tags": tags}


def resolution(rooms: Rooms, call: Call, found: Found, *, with_urls: bool = True) -> dict[str, Any]:
    """Return the answer that says what a ref means, in the words of every client."""
    checkpoint, facts = found.checkpoint, found.checkpoint.facts
    entries = []
    for path, digest, size in found.files:
        entry: dict[str, Any] = {"path": path, "size_bytes": size}
        entry |= {"digest": f"blake3:{digest}", "blake3": digest}
        if with_urls:
            entry["url"] = rooms.blob_url(call, digest)
        entries.append(entry)
    artifact = {
        "label": facts.display_label or checkpoint.flavor,
        "file_layout": facts.file_layout,
        "file_type": facts.file_type,
        "quantization": facts.dtype,
        "dtype": facts.dtype,
    }
    return {
        "checkpoint_id": checkpoint.checkpoint_id,
        "snapshot_digest": checkpoint.checkpoint_id,
        "repo_revision_seq": found.seq,
        "version": found.seq,
        "artifact": artifact,
        "variant": artifact,
        "snapshot_manifest": {"version": 2, "files": entries, "entries": entries},
        "flavor": checkpoint.flavor,
        "flavors": found.flavors,
        "tags": found.tags,
        "pipeline_class": facts.pipeline_class,
        "metadata": facts.metadata,
        "lineage": facts.lineage,
    }


def _size(files: Sequence[tuple[str, str, int]]) -> int:
    return sum({digest: size for _, digest, size in files}.values())
