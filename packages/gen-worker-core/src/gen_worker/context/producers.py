"""Contexts of functions that produce artifacts: conversions, trainings and datasets."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, TypedDict

from gen_worker.context.publishing import (
    checked_destination,
    checked_tags,
    checked_visibility,
    refuse_unknown,
    skipped,
)
from gen_worker.context.request import RequestContext
from gen_worker.errors import ArtifactTransferError, ValidationError
from gen_worker.ports import Directories, RepoMetadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Unpack

__all__ = ["ConversionContext", "DatasetContext", "ProducerContext", "TrainingContext"]

_DIGEST = re.compile(r"(?:(blake3|sha256):)?([0-9a-f]{64})")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_MAX_BLOB_BYTES = 1 << 62  # blobs are named by their digest, so their size is no surprise


class DatasetFields(TypedDict, total=False):
    """What may be said about a dataset revision; see `ctx.publish_dataset_revision`."""

    row_artifacts_json: Any
    snapshot_manifest: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None
    visibility: str
    kind: str
    dataset_info: Mapping[str, Any] | None
    tags: Sequence[str] | None
    """They move to the new revision."""


_DATASET_DEFAULTS: DatasetFields = {
    "row_artifacts_json": None,
    "snapshot_manifest": None,
    "visibility": "private",
    "kind": "",
    "dataset_info": None,
    "tags": None,
}


class ProducerContext(RequestContext):
    """What every kind that produces artifacts may use, whichever of its contexts is annotated.

    Scratch space, blobs, writers, and what repositories say about themselves.
    """

    __slots__ = ()

    def mktemp(self) -> Path:
        """Return a new empty directory; it is removed when the call has ended.

        What a killed process leaves is removed by the next call that asks for one.

        Raises:
            PermissionError: Other users of this machine have taken its place.
        """
        import tempfile
        from pathlib import Path

        root = self._extra.get("scratch")
        if root is None:
            from gen_worker.context.kept import KeptDirectories

            name = f"txform-{_UNSAFE.sub('_', self.request_id)[:40]}-{os.urandom(4).hex()}"
            root = self._extra["scratch"] = KeptDirectories(name, is_repeated=False)
        return Path(tempfile.mkdtemp(dir=root.path))

    def checkpoint_dir(self, *, key: str) -> Path:
        """Return a directory that a restarted job finds again with the same key.

        It is on this machine's temporary disk, and is removed once the job has ended for good: it
        is done, was canceled, or failed so that it is not tried again, as on your own machine.

        Raises:
            PermissionError: Other users of this machine have taken its place.
        """
        if not key:
            raise ValueError("checkpoint_dir needs a key, such as 'optimizer'")
        kept = self._extra.get("kept")
        if kept is None:
            from gen_worker.context.kept import KeptDirectories

            kept = self._extra["kept"] = KeptDirectories(
                _directory_name(self.workspace_scope_id),
                is_repeated=self._repeats_within_s is not None,
            )
        found: Path = kept.directory(_directory_name(key))
        return found

    def materialize_blob(self, digest: str, dest: str | os.PathLike[str]) -> Path:
        """Put a blob of the content store at `dest`, whole or not at all.

        Args:
            digest: `blake3:<hex>` or `sha256:<hex>`; bare hex means blake3.
            dest: The file to write; its directory is made.

        Raises:
            FileNotFoundError: There is no such blob here.
            ArtifactTransferError: It could not be fetched, or its content has another digest.
        """
        from pathlib import Path

        from gen_worker.ports import FileLimits
        from gen_worker.types import Tensors

        name = _blob_digest(digest)
        if self._ports is None:
            raise FileNotFoundError(f"blob {name} is not here: this context has no host")
        blob = self._block(
            self._ports.files.materialize(
                Tensors(ref=name, blob_digest=name),
                FileLimits(max_bytes=_MAX_BLOB_BYTES),
                request_id=self.request_id,
            )
        )
        _copy_file(os.fspath(blob), os.fspath(dest))
        return Path(dest)

    def resolve_dataset(self, ref: str, *, checkpoint_id: str | None = None) -> str:
        """Return the local directory of a dataset, which stays until the call has ended.

        Args:
            ref: `owner/name` or `owner/name:tag`, or a directory of this machine.
            checkpoint_id: Digest or number of one of its revisions, whatever the tag says. The
                newest by default.

        Raises:
            ArtifactTransferError: It is not on this machine, or has no such revision or tag.
        """
        found: str | None = None
        if self._ports is not None and isinstance(self._ports.files, Directories):
            find = self._ports.files.find_directory
            found = self._block(
                find(
                    ref,
                    request_id=self.request_id,
                    checkpoint_id=checkpoint_id or "",
                    is_dataset=True,
                )
            )
        if found is None:
            raise ArtifactTransferError(
                f"dataset {ref!r} is not on this machine: name one of the hub, or a directory",
                phase="resolve",
            )
        return found

    def open_output_writer(self) -> Any:
        """Return a writer of weight files for a new directory `model`, bound to the job's source.

        Raises:
            RuntimeError: The job has no source on this machine, or the installed
                gen-worker-conversion has no writer.
        """
        writer = _from_conversion("StreamingWriter", "ctx.open_output_writer")
        if self.source_path is None:
            raise RuntimeError("ctx.open_output_writer needs a source that is on this machine")
        return writer(self.source_path, self.mktemp() / "model")

    def copy_unconverted_components(
        self, source: Any, out_dir: str | os.PathLike[str], *, skip: Iterable[str] = ()
    ) -> Any:
        """Copy the components of `source` that are neither in `skip` nor in `out_dir` yet.

        Raises:
            RuntimeError: The installed gen-worker-conversion cannot do this.
        """
        copy = _from_conversion("copy_unconverted_components", "ctx.copy_unconverted_components")
        return copy(source, out_dir, skip=tuple(skip))

    def read_repo_metadata(self, *, destination_repo: str) -> dict[str, Any]:
        """Return `{"ok", "exists", "metadata"}` of a repository."""
        repo = checked_destination(destination_repo, "destination_repo")
        metadata = self._repo_metadata
        if metadata is None:
            return skipped(destination_repo=repo)
        found = self._block(metadata.read_metadata(repo, request_id=self.request_id))
        return {"ok": True, "exists": found is not None, "metadata": dict(found or {})}

    def write_repo_metadata(
        self, *, destination_repo: str, metadata: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Replace the metadata of a repository and return what the hub answers."""
        repo = checked_destination(destination_repo, "destination_repo")
        port = self._repo_metadata
        if port is None:
            return skipped(destination_repo=repo)
        answer = self._block(port.write_metadata(repo, dict(metadata), request_id=self.request_id))
        owner, _, name = repo.partition("/")
        return {"ok": True, "owner": owner, "name": name, "metadata": dict(metadata), **answer}

    def publish_early(self, path: str | os.PathLike[str]) -> None:
        """Begin to send a finished file of an artifact, while the function goes on; never blocks.

        The artifact that the function returns finds it there, if the file has not changed since; a
        file that could not be sent is sent once more then. Without a destination, or a hub to
        publish to, this does nothing. A writer's `on_file` may call it.

        Raises:
            FileNotFoundError: There is no such file.
            ArtifactTransferError: An earlier file could not be sent.
        """
        destination = str(self.destination.get("ref") or "")
        publisher = self._ports.publisher if self._ports is not None else None
        if not destination or publisher is None or getattr(publisher, "keeps_files_here", False):
            return
        early = self._extra.get("early")
        if early is None:
            from gen_worker.context.early import uploads_of

            early = uploads_of(self, destination, self._revision_spec)
            self._extra["early"] = early
        early.raise_failure()
        early.add(path)

    @property
    def _repeats_within_s(self) -> float | None:
        return self._ports.repeats_within_s if self._ports is not None else 0.0

    @property
    def _repo_metadata(self) -> RepoMetadata | None:
        publisher = self._ports.publisher if self._ports is not None else None
        return publisher if isinstance(publisher, RepoMetadata) else None

    async def _early_facts(self, path: str) -> Mapping[str, Any] | None:
        """Return what is known of a file that was sent already, waiting for it."""
        early = self._extra.get("early")
        if early is None:
            return None
        from gen_worker.context.local import off_loop

        facts: Mapping[str, Any] | None = await off_loop(early.facts_of, path)
        return facts

    @property
    def _revision_spec(self) -> Mapping[str, Any]:
        """What the destination's revision is opened with."""
        return {"target": "dataset"} if self._extra.get("makes_dataset") else self._repo_spec

    @property
    def needs_release(self) -> bool:
        return bool(self._extra.keys() & {"scratch", "early", "kept"}) or super().needs_release

    async def release(self, *, is_over: bool = False) -> None:
        """Also end what `publish_early` began, and remove the directories of `mktemp`.

        Those of `checkpoint_dir` go when the job is over.
        """
        from gen_worker.context.local import off_loop

        early = self._extra.pop("early", None)
        root = self._extra.pop("scratch", None)
        kept = self._extra.pop("kept", None)
        if early is not None:
            await off_loop(early.end)
        try:
            await super().release(is_over=is_over)
        finally:
            if early is not None:
                await off_loop(early.join)
            if root is not None:
                import shutil

                await off_loop(shutil.rmtree, root.path, True)
                await off_loop(root.leave, 0.0)
            if kept is not None:
                within_s = self._repeats_within_s
                may_come = within_s is not None and not is_over
                await off_loop(kept.leave, None if may_come else within_s or 0.0)


class ConversionContext(ProducerContext):
    """The context of conversions."""

    __slots__ = ()


class TrainingContext(ConversionContext):
    """The context of training functions and classes."""

    __slots__ = ()


class DatasetContext(ProducerContext):
    """The context of functions that make datasets."""

    __slots__ = ()

    def dataset_writer(self, schema: Mapping[str, str], **options: Any) -> Any:
        """Return a writer of rows to Parquet files in a new directory.

        Args:
            schema: Types by column: `string`, `int64`, `float32`, `bool`, `binary`, `image` or
                `list<…>` of one.
            **options: Of `gen_worker.conversion.DatasetWriter`.

        Raises:
            RuntimeError: gen-worker-conversion is not installed.
        """
        writer = _from_conversion("DatasetWriter", "ctx.dataset_writer")
        return writer(self.mktemp() / "dataset", schema, **options)

    def publish_dataset_revision(
        self, *, destination_dataset: str, features_json: Any, **fields: Unpack[DatasetFields]
    ) -> dict[str, Any]:
        """Commit what was stored as a new revision of a dataset.

        Args:
            destination_dataset: `owner/name`.
            features_json: The columns and their types.
            **fields: See `DatasetFields`.

        Returns:
            `{"ok", "dataset_id", "owner", "name", "existed"}`, or `skipped` as for
            `publish_repo_revision`.
        """
        return self._block(
            self.apublish_dataset_revision(
                destination_dataset=destination_dataset, features_json=features_json, **fields
            )
        )

    async def apublish_dataset_revision(
        self, *, destination_dataset: str, features_json: Any, **fields: Unpack[DatasetFields]
    ) -> dict[str, Any]:
        """Await `publish_dataset_revision`."""
        refuse_unknown(fields, _DATASET_DEFAULTS, "publish_dataset_revision")
        manifest = {**_DATASET_DEFAULTS, **fields, "features_json": features_json}
        checked_visibility(manifest["visibility"])
        manifest["tags"] = checked_tags(fields.get("tags")) or None
        dataset = checked_destination(destination_dataset, "destination_dataset")
        self.raise_if_canceled()
        revisions = self._revisions
        if revisions is None:
            return skipped(destination_dataset=dataset)
        return await revisions.finalize(dataset, {"target": "dataset"}, **manifest)


def _from_conversion(name: str, wanted_for: str) -> Any:
    import importlib

    try:
        module = importlib.import_module("gen_worker.conversion")
    except ImportError as error:
        raise RuntimeError(f"{wanted_for} needs gen-worker-conversion: install it") from error
    found = getattr(module, name, None)
    if found is None:
        raise RuntimeError(
            f"{wanted_for} needs gen_worker.conversion.{name}, which the installed "
            "gen-worker-conversion does not have: install a newer one"
        )
    return found


def _blob_digest(digest: str) -> str:
    match = _DIGEST.fullmatch(digest.strip().lower())
    if match is None:
        raise ValidationError(
            f"{digest!r} is no digest: give 'blake3:' or 'sha256:' and 64 hex digits"
        )
    return f"{match[1] or 'blake3'}:{match[2]}"


def _directory_name(text: str) -> str:
    """Replace what a path cannot hold by `_`; different texts stay different."""
    name = _UNSAFE.sub("_", text)
    if name == text and name.strip(".") and len(name) <= 100:
        return name
    from hashlib import sha256

    digest = sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"{name[:80]}-{digest[:8]}"


def _copy_file(source: str, dest: str) -> None:
    import shutil

    os.makedirs(os.path.dirname(os.path.abspath(dest)), exist_ok=True)
    temporary = f"{dest}.{os.urandom(8).hex()}.part"
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, dest)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
