"""What a hub keeps besides files: lists, tags, trees, metadata, datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ArtifactTransferError, ValidationError
from gen_worker.models.hub.answers import raise_for_model
from gen_worker.models.hub.connection import raise_for, segment
from gen_worker.models.hub.errors import PROVIDER, HubAuthError, NotOnHubError
from gen_worker.models.hub.wire import DATASET_FILES, LATEST, check_tags
from gen_worker.models.ref_types import DEFAULT_TAG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.models.hub.capability import Capability, Permissions
    from gen_worker.models.hub.connection import HubConnection, Reply

__all__ = ["RepositoryCalls"]


class RepositoryCalls:
    """The part of a client that reads and changes records."""

    connection: HubConnection
    capability: Capability | None

    def repo_exists(self, owner: str, repo: str) -> bool:
        """Whether there is such a repository; one that may not be read counts as none."""
        try:
            return bool(self.metadata(owner, repo)["exists"])
        except HubAuthError as error:
            if error.status_code == 401:
                raise
            return False

    def issue_capability(
        self, permissions: Permissions, *, subject: str = "worker", ttl_s: float
    ) -> str:
        """Return a token for one job; only an administrator of the hub gets one.

        Args:
            permissions: What it may do.
            subject: Whom it is for.
            ttl_s: How long it is valid.

        Raises:
            HubAuthError: The client's own token does not allow it.
            HubRequestError: The hub has no such route.
        """
        body = {"capability": permissions, "subject": subject, "ttl_s": ttl_s}
        reply = self.connection.call("POST", "/api/v1/tokens", phase="token", body=body)
        raise_for(reply, "token")
        return str(reply.record("token").get("token") or "")

    def repos(self, owner: str = "") -> list[dict[str, Any]]:
        """List repositories with their tags, flavors and sizes."""
        query = {"owner": owner} if owner else None
        reply = self.connection.ask("GET", "/api/v1/repos", phase="list", query=query)
        return _items(reply)

    def repo(self, owner: str, repo: str) -> dict[str, Any]:
        """Describe one repository: its tags, their flavors, checkpoints and sizes.

        Raises:
            RepoNotFoundError: There is none.
        """
        reply = self.connection.call("GET", _repo(owner, repo), phase="list")
        raise_for_model(reply, f"{owner}/{repo}")
        return reply.record("list")

    def move_tag(self, owner: str, repo: str, tag: str, checkpoint_id: str) -> None:
        """Point a tag to a checkpoint.

        Raises:
            ValidationError: The tag is none, or is `latest`.
            NotOnHubError: There is no such repository or checkpoint.
        """
        (tag,) = check_tags((tag,))
        reply = self.connection.call(
            "PUT",
            f"{_repo(owner, repo)}/tags",
            phase="tag",
            query={"tag": tag},
            body={"checkpoint_id": checkpoint_id},
        )
        raise_for_model(reply, f"{owner}/{repo}@{checkpoint_id}", phase="tag")

    def remove_tag(self, owner: str, repo: str, tag: str) -> None:
        """Remove a tag.

        Raises:
            NotOnHubError: There is no such repository or tag.
        """
        path = f"{_repo(owner, repo)}/tags"
        reply = self.connection.call("DELETE", path, phase="tag", query={"tag": tag})
        raise_for_model(reply, f"{owner}/{repo}:{tag}", phase="tag")

    def tree(
        self, owner: str, repo: str, *, tag: str = LATEST, flavor: str = ""
    ) -> list[dict[str, Any]]:
        """List the files under a tag; nothing when there is no such repository or tag."""
        query = {"tag": tag} | ({"flavor": flavor} if flavor else {})
        reply = self.connection.call("GET", f"{_repo(owner, repo)}/tree", phase="tree", query=query)
        if reply.status == 404:
            return []
        raise_for(reply, "tree")
        entries = reply.record("tree").get("entries")
        return [entry for entry in entries if isinstance(entry, dict)] if entries else []

    def metadata(self, owner: str, repo: str) -> dict[str, Any]:
        """Return `{"exists": bool, "metadata": {…}}` of a repository."""
        if self.capability is not None:
            self.capability.check_read(owner, repo)
        reply = self.connection.call("GET", f"{_repo(owner, repo)}/metadata", phase="metadata")
        if reply.status == 404:
            return {"exists": False, "metadata": {}}
        raise_for(reply, "metadata")
        record = reply.record("metadata")
        known = record.get("metadata")
        return {
            "exists": record.get("exists", True) is not False,
            "metadata": known if isinstance(known, dict) else {},
        }

    def put_metadata(self, owner: str, repo: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Replace a repository's metadata, and return what the hub keeps.

        Raises:
            ValidationError: `metadata` is no object.
        """
        if not isinstance(metadata, Mapping):
            raise ValidationError(f"metadata must be an object, not {metadata!r:.120}")
        reply = self.connection.ask(
            "PUT",
            f"{_repo(owner, repo)}/metadata",
            phase="metadata",
            body={"metadata": dict(metadata)},
        )
        kept = reply.record("metadata").get("metadata")
        return kept if isinstance(kept, dict) else dict(metadata)

    def datasets(self, owner: str) -> list[dict[str, Any]]:
        """List the datasets of an owner."""
        reply = self.connection.ask(
            "GET", "/api/v1/datasets", phase="dataset", query={"owner": owner}
        )
        return _items(reply)

    def find_dataset(
        self, owner: str, name: str, *, revision: str = "", tag: str = ""
    ) -> dict[str, Any] | None:
        """Return the dataset of a name, upper and lower case alike.

        Args:
            owner: Whose it is.
            name: What it is called.
            revision: Number or digest of one of its revisions.
            tag: Of a revision, where no other is named. `latest` and nothing are the newest one,
                and so is the default tag of refs while no revision has it.

        Raises:
            NotOnHubError: It has no such revision or tag.
        """
        folded = name.lower()
        found = (item for item in self.datasets(owner) if str(item.get("name")).lower() == folded)
        newest = next(found, None)
        if newest is None:
            return None
        revision = revision or _tagged(newest, tag)
        if revision in ("", str(newest.get("revision_digest"))):
            return newest
        if revision.isdecimal():
            return self._dataset_revision(newest, revision)
        for number in range(int(newest.get("revision") or 1) - 1, 0, -1):
            older = self._dataset_revision(newest, str(number))
            if older.get("revision_digest") == revision:
                return older
        raise NotOnHubError(
            f"dataset '{owner}/{name}' has no revision {revision!r:.100}: give the number or the "
            "digest of one"
        )

    def _dataset_revision(self, dataset: Mapping[str, Any], revision: str) -> dict[str, Any]:
        path = f"/api/v1/datasets/{segment(str(dataset.get('id')))}"
        reply = self.connection.call("GET", path, phase="dataset", query={"revision": revision})
        raise_for_model(reply, f"{dataset.get('name')}, revision {revision}", phase="dataset")
        return reply.record("dataset")

    def put_dataset(
        self,
        owner: str,
        name: str,
        schema: Mapping[str, Any],
        *,
        visibility: str = "private",
        row_artifacts: Any = None,
        tags: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Publish a revision of a dataset, which is made when there is none.

        Its tags move with it, at once.

        Returns:
            `{"ok", "dataset_id", "owner", "name", "existed"}`, and `revision` with
            `revision_digest` where the hub tells them.

        Raises:
            ArtifactTransferError: The hub keeps other files than were published.
        """
        known = self.find_dataset(owner, name)
        body: dict[str, Any] = {"schema": dict(schema), "visibility": visibility}
        body |= {"row_artifacts": row_artifacts} if row_artifacts is not None else {}
        body |= {"tags": list(check_tags(tags))} if tags else {}
        path, method = "/api/v1/datasets", "POST"
        if known is None:
            body |= {"owner": owner, "name": name}
        else:
            path, method = f"{path}/{segment(str(known.get('id')))}", "PATCH"
        made = self.connection.ask(method, path, phase="dataset", body=body).record("dataset")
        answer = {
            "ok": True,
            "dataset_id": str((known or made).get("id") or ""),
            "owner": owner,
            "name": name,
            "existed": known is not None,
        }
        answer |= {name: made[name] for name in ("revision", "revision_digest") if name in made}
        self._check_published(answer, schema)
        return answer

    def _check_published(self, answer: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
        """Read a revision again: a dataset that is not as it was published is a failure."""
        number = str(answer.get("revision") or "")
        if number:
            kept = self._dataset_revision({"id": answer["dataset_id"], **answer}, number)
        else:  # a hub that does not count revisions
            kept = self.find_dataset(answer["owner"], answer["name"]) or {}
        files = (kept.get("schema") or {}).get(DATASET_FILES)
        if files != schema.get(DATASET_FILES):
            raise ArtifactTransferError(
                f"the hub keeps other files of dataset '{answer['owner']}/{answer['name']}' than "
                "were published: publish it again",
                provider=PROVIDER,
                phase="dataset",
            )


def _repo(owner: str, repo: str) -> str:
    return f"/api/v1/repos/{segment(owner)}/{segment(repo)}"


def _items(reply: Reply) -> list[dict[str, Any]]:
    items = reply.record("list").get("items")
    if not isinstance(items, list):
        return []
    return msgspec.convert([item for item in items if isinstance(item, dict)], list[dict[str, Any]])


def _tagged(dataset: Mapping[str, Any], tag: str) -> str:
    """Return the number of the revision that has a tag; empty for the newest."""
    if tag in ("", LATEST):
        return ""
    tags = dataset.get("tags") or {}
    if tag not in tags and tag != DEFAULT_TAG:
        raise NotOnHubError(
            f"dataset '{dataset.get('owner')}/{dataset.get('name')}' has no tag {tag!r:.100}: it "
            f"has {', '.join(map(repr, sorted(tags))) or 'none'}",
        )
    return str(tags.get(tag, ""))
