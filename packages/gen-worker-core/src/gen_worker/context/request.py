"""`RequestContext`: everything a handler can ask of its call and its host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from gen_worker.context.outputs import OutputContext

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    from gen_worker.context.publishing import Revisions

__all__ = ["RepoSpec", "RequestContext", "RevisionFields"]


class RepoSpec(TypedDict, total=False):
    """What a repository is, said before its first file is stored."""

    kind: str
    library_name: str
    model_family: str
    class_name: str
    adapter_for_checkpoint_group: str
    adapter_for_family: str


class RevisionFields(TypedDict, total=False):
    """What may be said about a revision; see `ctx.publish_repo_revision`."""

    artifact_refs: Sequence[str] | None
    metadata: Mapping[str, Any] | None
    create_if_missing: bool
    destination_repo_tags: Sequence[str] | None
    source_repo: str | None
    source_version_id: str | None
    target_version_id: str | None
    snapshot_manifest: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
    relationship_kind: str
    auto_create_external_parent: bool


_REVISION_DEFAULTS: RevisionFields = {
    "artifact_refs": None,
    "metadata": None,
    "create_if_missing": True,
    "destination_repo_tags": None,
    "source_repo": None,
    "source_version_id": None,
    "target_version_id": None,
    "snapshot_manifest": None,
    "relationship_kind": "import",
    "auto_create_external_parent": True,
}


class RequestContext(OutputContext):
    """The view a handler has of its call.

    `RequestContext("t")` works by itself in a test: events are dropped and files are written below
    `./.gen-worker-run/outputs` (`GEN_WORKER_LOCAL_OUTPUT_DIR`).
    """

    __slots__ = ()

    def set_repo_spec(self, **spec: Unpack[RepoSpec]) -> None:
        """Describe the repository this call publishes to; empty values are left out.

        Raises:
            RuntimeError: A file was stored in the revision already.
        """
        from gen_worker.context.publishing import refuse_unknown

        refuse_unknown(spec, RepoSpec.__annotations__, "set_repo_spec")
        if self.has_open_revisions or self._extra.get("has_checkpoints"):
            raise RuntimeError("call set_repo_spec before the first file is published")
        known = self._extra.setdefault("repo_spec", {})
        known.update((name, value) for name, value in spec.items() if value)

    def publish_repo_revision(
        self, *, destination_repo: str, **fields: Unpack[RevisionFields]
    ) -> dict[str, Any]:
        """Commit what was stored as a new revision of a repository, and move its tags.

        Args:
            destination_repo: `owner/repo`.
            **fields: See `RevisionFields`; the job's destination gets the job's tags by default.

        Returns:
            The hub's answer. Where there is no hub to publish to:
            `{"ok": False, "skipped": True, "reason": "missing_worker_capability_channel", …}`.

        Raises:
            ValidationError: A tag is not allowed, or the destination is empty.
            ArtifactTransferError: The hub could not be reached or refused.
            AuthError: The call may not publish there.
        """
        return self._block(self.apublish_repo_revision(destination_repo=destination_repo, **fields))

    def finalize_checkpoints(
        self, *, destination_repo: str, **fields: Unpack[RevisionFields]
    ) -> dict[str, Any]:
        """Do what `publish_repo_revision` does, under its older name."""
        return self.publish_repo_revision(destination_repo=destination_repo, **fields)

    async def apublish_repo_revision(
        self, *, destination_repo: str, **fields: Unpack[RevisionFields]
    ) -> dict[str, Any]:
        """Await `publish_repo_revision`."""
        from gen_worker.context.publishing import (
            checked_destination,
            checked_tags,
            refuse_unknown,
            skipped,
        )

        refuse_unknown(fields, _REVISION_DEFAULTS, "publish_repo_revision")
        manifest = {**_REVISION_DEFAULTS, **fields}
        destination = checked_destination(destination_repo, "destination_repo")
        tags = fields.get("destination_repo_tags")
        if tags is None and destination == self.destination.get("ref"):
            tags = self.destination.get("tags")  # the job's own, moved with its revision
        manifest["destination_repo_tags"] = checked_tags(tags)
        self.raise_if_canceled()
        revisions = self._revisions
        if revisions is None:
            return skipped(destination_repo=destination)
        return await revisions.finalize(destination, self._repo_spec, **manifest)

    @property
    def has_open_revisions(self) -> bool:
        revisions = self._extra.get("revisions")
        return revisions is not None and revisions.is_open

    @property
    def needs_release(self) -> bool:
        """Whether `release` has anything to do."""
        return "revisions" in self._extra

    async def release(self, *, is_over: bool = False) -> None:
        """Drop revisions that were not finalized; the host calls this once, when the call ended.

        Args:
            is_over: No other attempt of the job follows this one.
        """
        revisions = self._extra.pop("revisions", None)
        if revisions is not None:
            await revisions.abort()

    @property
    def _repo_spec(self) -> dict[str, Any]:
        return dict(self._extra.get("repo_spec", {}))

    @property
    def _revisions(self) -> Revisions | None:
        """The call's unfinished revisions; None where there is no hub to publish to."""
        if self._ports is None or self._ports.publisher is None:
            return None
        if "revisions" not in self._extra:
            from gen_worker.context.publishing import Revisions

            self._extra["revisions"] = Revisions(self._ports.publisher, self.request_id)
        revisions: Revisions = self._extra["revisions"]
        return revisions
