"""The `Publisher` port of a worker: revisions and datasets on the hub of each job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.context.publishing import skipped
from gen_worker.errors import ValidationError
from gen_worker.ports import SaveOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gen_worker.models.hub import Revision, Uploaded
    from gen_worker.runtime.files.host import WorkerFiles
    from gen_worker.runtime.files.requests import Request

__all__ = ["HubPublisher", "refuse_unsafe_weights"]


class _Destination(NamedTuple):
    """What one publication goes to."""

    request: Request
    owner: str
    name: str
    is_dataset: bool = False
    revision: Revision | None = None
    """None for a dataset, whose files are media, and where there is no hub."""

    @property
    def title(self) -> str:
        return f"{self.owner}/{self.name}"


def refuse_unsafe_weights(source: Path) -> None:
    """Refuse to publish a file by whose name a loader would run what is in it.

    Raises:
        UnsafeFileFormat: Says what to publish instead.
    """
    from gen_worker.models.formats import UNSAFE_SUFFIXES, UnsafeFileFormat

    suffix = source.suffix.lower()
    if suffix in UNSAFE_SUFFIXES:
        raise UnsafeFileFormat(
            f"file {source.name!r} is not published, because {suffix!r} files can run code when "
            "they are loaded: write safetensors or GGUF",
            files=(str(source),),
        )


class HubPublisher:
    """Publishes with the token of each job, which is asked first what it allows.

    Where a job has no hub, nothing is published, and the answer says so.
    """

    def __init__(self, files: WorkerFiles) -> None:
        """Share the requests of `files`, and with them their open revisions."""
        self._files = files

    async def open(self, destination: str, *, request_id: str, **spec: Any) -> _Destination:
        """Begin a revision; see the `Publisher` port.

        Raises:
            ValidationError: `destination` is no `owner/name`, or the token does not allow it.
        """
        owner, name = _split(destination)
        request = self._files.requests.get(request_id)
        is_dataset = spec.pop("target", "") == "dataset"
        session = _Destination(request, owner, name, is_dataset)
        if is_dataset or not request.scope.has_hub:
            return session
        if not request.scope.job:
            raise RuntimeError(f"publishing to {destination!r} needs a job_id: the call has none")
        return session._replace(
            revision=await self._files.away(self._open_revision, request, session.title, spec)
        )

    async def check_destination(self, repo: str, *, request_id: str) -> None:
        """Refuse what the job's token does not allow.

        Raises:
            ValidationError: The token says that it does not allow it.
            AuthError: The hub refuses the token.
            ArtifactTransferError: The hub does not answer.
        """
        owner, name = _split(repo)
        request = self._files.requests.get(request_id)
        if request.scope.has_hub:
            await self._files.away(lambda: request.client().check_publish(owner, name))

    async def put(self, session: object, path: str, source: Path) -> Mapping[str, Any]:
        """Store one file; see the `Publisher` port.

        Raises:
            UnsafeFileFormat: It is of a format that can run code when it is loaded.
        """
        destination = _checked(session)
        if not destination.is_dataset:
            refuse_unsafe_weights(source)
        if destination.revision is not None:
            sent = await self._files.away(self._put, destination, path, source)
            facts = msgspec.structs.asdict(sent)
            return {name: fact for name, fact in facts.items() if fact not in (None, "")}
        options = SaveOptions()
        stored = await self._files.save(path, source, options, request_id=destination.request.id)
        facts = msgspec.structs.asdict(stored)
        return {name: fact for name, fact in facts.items() if fact is not None}

    async def finalize(self, session: object, **manifest: Any) -> Mapping[str, Any]:
        """Publish; see the `Publisher` port.

        Raises:
            ValidationError: The manifest describes no files, or the repository must exist and
                does not.
            AuthError: The hub refuses the token.
            ArtifactTransferError: It did not work; nothing is published.
        """
        destination = _checked(session)
        if not destination.request.scope.has_hub:
            return skipped(owner=destination.owner, name=destination.name)
        act = self._publish_dataset if destination.is_dataset else self._publish
        answer: Mapping[str, Any] = await self._files.away(act, destination, manifest)
        return answer

    async def abort(self, session: object) -> None:
        """Drop a revision, unless it is published."""
        destination = _checked(session)
        if destination.revision is not None:
            await self._files.away(destination.revision.abort)

    async def read_metadata(self, repo: str, *, request_id: str) -> Mapping[str, Any] | None:
        """Return what a repository says about itself; None when there is none."""
        request, (owner, name) = self._files.requests.get(request_id), _split(repo)
        if not request.scope.has_hub:
            return None
        found = await self._files.away(lambda: request.client().metadata(owner, name))
        metadata: Mapping[str, Any] = found["metadata"]
        return metadata if found["exists"] else None

    async def write_metadata(
        self, repo: str, metadata: Mapping[str, Any], *, request_id: str
    ) -> Mapping[str, Any]:
        """Replace what a repository says about itself."""
        request, (owner, name) = self._files.requests.get(request_id), _split(repo)
        if not request.scope.has_hub:
            return skipped(owner=owner, name=name)
        kept = await self._files.away(lambda: request.client().put_metadata(owner, name, metadata))
        return {"metadata": kept}

    # What blocks

    def _open_revision(self, request: Request, title: str, spec: Mapping[str, Any]) -> Revision:
        from gen_worker.runtime.files.uploads import open_revision

        return open_revision(request, title, spec)

    def _put(self, destination: _Destination, path: str, source: Path) -> Uploaded:
        from gen_worker.runtime.files.uploads import put

        assert destination.revision is not None, "asked before"
        request, outputs = destination.request, self._files.outputs
        teller = outputs.teller(request)
        try:
            sent = put(
                request,
                destination.revision,
                path,
                outputs.finished(path, source, SaveOptions()),
                policy=self._files.policy,
                tell=teller,
            )
        except BaseException:
            teller.failed()
            raise
        return sent

    def _publish(self, destination: _Destination, manifest: Mapping[str, Any]) -> dict[str, Any]:
        from gen_worker.runtime.files.publications import flavors_of, replacing

        request, revision = destination.request, destination.revision
        assert revision is not None, "a repository on a hub has one"
        client, owner, name = request.client(), destination.owner, destination.name
        flavors = flavors_of(manifest, request.uploaded_to(revision))
        flavors = replacing(
            flavors, manifest, lambda flavor: client.tree(owner, name, flavor=flavor)
        )
        if not manifest.get("create_if_missing", True) and not client.repo_exists(owner, name):
            raise ValidationError(f"there is no repository {destination.title!r} to publish to")
        tags = list(manifest.get("destination_repo_tags") or ())
        ids = revision.finalize(
            flavors,
            tags=tags,
            auto_create_external_parent=bool(manifest.get("auto_create_external_parent", True)),
        )
        versions = [
            {"flavor": flavor.flavor, "checkpoint_id": checkpoint_id}
            for flavor, checkpoint_id in zip(flavors, ids, strict=True)
        ]
        answer = {"ok": True, "owner": owner, "name": name, "job_id": request.scope.job}
        answer |= {"checkpoint_ids": list(ids), "output_versions": versions}
        return answer | ({"destination_repo_tags": tags} if tags else {})

    def _publish_dataset(
        self, destination: _Destination, manifest: Mapping[str, Any]
    ) -> dict[str, Any]:
        from gen_worker.runtime.files.publications import dataset_schema

        return destination.request.client().put_dataset(
            destination.owner,
            destination.name,
            dataset_schema(manifest),
            visibility=str(manifest.get("visibility") or "private"),
            row_artifacts=manifest.get("row_artifacts_json"),
            tags=manifest.get("tags") or (),
        )


def _split(title: str) -> tuple[str, str]:
    owner, slash, name = title.partition("/")
    if not owner or not slash or not name or "/" in name:
        raise ValidationError(f"{title!r:.200} is no destination: write it as 'owner/name'")
    return owner, name


def _checked(session: object) -> _Destination:
    assert isinstance(session, _Destination), "the context passes on what open returned"
    return session
