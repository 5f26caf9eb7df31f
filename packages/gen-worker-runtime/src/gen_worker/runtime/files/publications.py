"""From what an author says of a revision to what the hub is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.context.refs import output_root
from gen_worker.errors import ValidationError
from gen_worker.models.hub import FileEntry, Lineage
from gen_worker.models.hub.wire import DATASET_FILES, DEFAULT_FLAVOR, FlavorFacts, FlavorPublication

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gen_worker.models.hub import Uploaded

__all__ = ["dataset_schema", "flavors_of", "replacing"]

_FACTS = frozenset(FlavorFacts.__struct_fields__)


def flavors_of(
    manifest: Mapping[str, Any], uploaded: Mapping[str, Uploaded]
) -> list[FlavorPublication]:
    """Return the checkpoints of a publication.

    Args:
        manifest: Keywords of `ctx.publish_repo_revision`.
        uploaded: The files of the revision, by ref. They are one checkpoint where nothing says
            otherwise: those of `artifact_refs`, all without.

    Raises:
        ValidationError: Something of it is no description of files.
    """
    metadata = dict(manifest.get("metadata") or {})
    told = metadata.pop("checkpoint_flavors", None)
    shared = _entries(manifest.get("snapshot_manifest"))
    if not told:
        entries = shared or _uploaded_entries(manifest.get("artifact_refs"), uploaded)
        told = [{"metadata": metadata, "snapshot_manifest": entries}]
    if not isinstance(told, Sequence) or not all(isinstance(one, Mapping) for one in told):
        raise ValidationError(
            f"metadata['checkpoint_flavors'] must be a list of objects, not {told!r:.200}"
        )
    lineage = _lineage(manifest)
    return [_flavor(one, shared, lineage) for one in told]


def replacing(
    flavors: Sequence[FlavorPublication],
    manifest: Mapping[str, Any],
    tree: Callable[[str], Iterable[Mapping[str, Any]]],
) -> list[FlavorPublication]:
    """Let checkpoints take the place of what `:latest` has, where they ask for it.

    A hub adds a checkpoint's files to those of the flavor under `:latest`. One that is described
    with `replaces_latest` deletes the others.

    Args:
        flavors: Of `flavors_of` with the same manifest.
        manifest: Keywords of `ctx.publish_repo_revision`.
        tree: Returns the files of a flavor under `:latest`; blocks.
    """
    told = (manifest.get("metadata") or {}).get("checkpoint_flavors") or [{}] * len(flavors)
    found = []
    for flavor, one in zip(flavors, told, strict=True):
        if one.get("replaces_latest"):
            paths = {str(entry["path"]) for entry in tree(flavor.flavor)}
            gone = paths - {entry.path for entry in flavor.snapshot_manifest}
            deletions = tuple(sorted({*flavor.deletions, *gone}))
            flavor = msgspec.structs.replace(flavor, deletions=deletions)
        found.append(flavor)
    return found


def dataset_schema(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a dataset from the keywords of `ctx.publish_dataset_revision`."""
    schema: dict[str, Any] = {"features": manifest.get("features_json") or {}}
    more = {
        "__cozy_kind__": manifest.get("kind"),
        "__cozy_dataset_info__": manifest.get("dataset_info"),
        DATASET_FILES: [
            msgspec.to_builtins(entry) for entry in _entries(manifest.get("snapshot_manifest"))
        ],
    }
    return schema | {name: value for name, value in more.items() if value}


def _flavor(
    one: Mapping[str, Any], shared: tuple[FileEntry, ...], lineage: tuple[Lineage, ...]
) -> FlavorPublication:
    name = str(one.get("flavor") or DEFAULT_FLAVOR)
    names = [str(other) for other in one.get("flavors") or ()]
    own = tuple(_converted(parent, Lineage) for parent in one.get("lineage") or ())
    if not own:
        more, kind = one.get("lineage_metadata") or {}, str(one.get("relationship_kind") or "")
        own = tuple(
            msgspec.structs.replace(
                edge,
                relationship_kind=kind or edge.relationship_kind,
                metadata={**edge.metadata, **more},
            )
            for edge in lineage
        )
    facts = {key: value for key, value in one.items() if key in _FACTS and value}
    return FlavorPublication(
        snapshot_manifest=_entries(one.get("snapshot_manifest")) or shared,
        flavor=name,
        flavors=tuple(dict.fromkeys((name, *names))),
        lineage=own,
        **msgspec.structs.asdict(_converted(facts, FlavorFacts)),
    )


def _entries(manifest: Any) -> tuple[FileEntry, ...]:
    """Read a manifest: a list of entries, or an object that has it as `entries` or `files`."""
    if isinstance(manifest, Mapping):
        manifest = manifest.get("entries") or manifest.get("files")
    return tuple(_converted(entry, FileEntry) for entry in manifest or ())


def _uploaded_entries(
    refs: Sequence[str] | None, uploaded: Mapping[str, Uploaded]
) -> tuple[FileEntry, ...]:
    chosen = list(uploaded) if refs is None else list(refs)
    missing = [ref for ref in chosen if ref not in uploaded]
    if missing:
        raise ValidationError(
            f"{missing!r:.300} were not stored in this revision: store them first"
        )
    return tuple(
        FileEntry(
            path=_path_in_outputs(ref),
            digest=f"blake3:{uploaded[ref].blake3}",
            size_bytes=uploaded[ref].size_bytes,
        )
        for ref in chosen
    )


def _path_in_outputs(ref: str) -> str:
    """Return `a/b` of `jobs/<id>/outputs/a/b`."""
    parts = ref.split("/", 3)
    is_output = len(parts) == 4 and ref.startswith(output_root(parts[1]))
    return parts[3] if is_output else ref


def _lineage(manifest: Mapping[str, Any]) -> tuple[Lineage, ...]:
    """Return where all checkpoints come from; nothing is a root, as without a parent's id."""
    repo, version = manifest.get("source_repo"), manifest.get("source_version_id")
    if not repo or not version:
        return ()
    kind = str(manifest.get("relationship_kind") or "import")
    edge = Lineage(parent_repo=str(repo), parent_checkpoint_id=str(version), relationship_kind=kind)
    return (edge,)


def _converted(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValidationError(f"{value!r:.200} is no {kind.__name__}: {error}") from error
