"""What was made becomes one revision of the destination, with what is known of its source."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.clone.planning import FailedFlavor
from gen_worker.clone.records import CheckpointRef
from gen_worker.context.produced import store_flavor
from gen_worker.context.request import RepoSpec
from gen_worker.conversion.artifacts import ConversionArtifact, ConversionOutput
from gen_worker.errors import ArtifactTransferError
from gen_worker.types import ProducedFlavor, Tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gen_worker.clone.executing import MadeFlavor
    from gen_worker.clone.payload import CloneRequest
    from gen_worker.clone.planning import SourceIdentity
    from gen_worker.context import ConversionContext
    from gen_worker.context.produced import Produced

__all__ = ["EarlierImport", "earlier_import", "publish", "sends_early"]

_PARENT = "external-sources/upstream"
_RECORD = "clone"
_FACTS = frozenset(Tensors.__struct_fields__)


class EarlierImport(msgspec.Struct, frozen=True, kw_only=True):
    """What a repository says of the import that made it."""

    source: str
    source_revision: str
    recipe: str
    checkpoints: list[CheckpointRef] = []
    deferred: list[FailedFlavor] = []
    """Flavors that a job of another kind makes."""
    is_complete: bool = True
    """Whether there is nothing that another try could add."""


def earlier_import(
    ctx: ConversionContext, request: CloneRequest, identity: SourceIdentity, recipe: str
) -> EarlierImport | None:
    """Return what an equal import published at the destination; None when there was none."""
    record = _record(ctx, request.destination)
    wanted = (identity.ref, identity.revision, recipe)
    if record is None or (record.source, record.source_revision, record.recipe) != wanted:
        return None
    return record if record.checkpoints and record.is_complete else None


def sends_early(
    ctx: ConversionContext, request: CloneRequest, spec: Mapping[str, str]
) -> Callable[[str], None] | None:
    """Return what begins to send a finished file, while others still are being made.

    None where the call itself has another destination: its revision would be opened.
    """
    if ctx.destination.get("ref") != request.destination:
        return None
    if not ctx.has_open_revisions:
        ctx.set_repo_spec(**_repo_spec(spec))
    return ctx.publish_early


def _stored(
    ctx: ConversionContext,
    request: CloneRequest,
    made: Sequence[MadeFlavor],
    spec: Mapping[str, str],
    metadata: Mapping[str, Any],
) -> list[Produced]:
    """Send the files of each flavor; nothing is visible yet."""
    stored: list[Produced] = []
    names: set[str] = set()
    for one in made:
        ctx.raise_if_canceled()
        attributes = {**metadata, **one.attributes, "size_facts": one.size_facts}
        attributes["dtype"] = one.flavor.dtype
        flavor = ProducedFlavor(one.directory, flavor=one.flavor.label, attributes=attributes)
        kept = ctx._block(store_flavor(ctx, flavor, request.destination, dict(spec), names))
        _check_digests(kept, one)
        stored.append(kept)
    return stored


def publish(
    ctx: ConversionContext,
    request: CloneRequest,
    identity: SourceIdentity,
    made: Sequence[MadeFlavor],
    failed: Sequence[FailedFlavor],
    *,
    spec: Mapping[str, str],
    metadata: Mapping[str, Any],
    recipe: str,
) -> ConversionOutput:
    """Store the files of all flavors and publish them at once; blocks.

    Args:
        ctx: The call, which may publish.
        request: Where to.
        identity: What the flavors were made of.
        made: The flavors.
        failed: Those that could not be made.
        spec: What the repository is.
        metadata: Of every flavor.
        recipe: Name of what was asked for.

    Raises:
        ArtifactTransferError: It could not be published, or a file is not what its source says;
            nothing is.
        AuthError: The call may not publish there.
    """
    stored = _stored(ctx, request, made, spec, metadata)
    more = {"replaces_latest": request.overwrite_repo}
    manifests = [
        {**_manifest(produced, one), **more} for produced, one in zip(stored, made, strict=True)
    ]
    answer = ctx.publish_repo_revision(
        destination_repo=request.destination,
        destination_repo_tags=request.tags,
        source_repo=_PARENT,
        source_version_id=identity.ref,
        relationship_kind="import",
        metadata={"checkpoint_flavors": manifests},
    )
    checkpoints = [
        CheckpointRef(repo=request.destination, **version)
        for version in answer.get("output_versions") or ()
    ]
    if checkpoints:
        record = EarlierImport(
            source=identity.ref,
            source_revision=identity.revision,
            recipe=recipe,
            checkpoints=checkpoints,
            deferred=[one for one in failed if one.deferred_requirement is not None],
            is_complete=all(one.deferred_requirement is not None for one in failed),
        )
        _remember(ctx, request, record, metadata)
    return _output(stored, checkpoints, answer)


def _manifest(produced: Produced, made: MadeFlavor) -> dict[str, Any]:
    flavor = made.flavor
    label = "-".join((flavor.dtype.replace(":", "-"), flavor.file_layout, flavor.file_type))
    return {
        **produced.manifest(),
        "display_label": label,
        "dtype": flavor.dtype,
        "file_layout": flavor.file_layout,
        "file_type": flavor.file_type,
    }


def _record(ctx: ConversionContext, destination: str) -> EarlierImport | None:
    found = ctx.read_repo_metadata(destination_repo=destination).get("metadata") or {}
    try:
        return msgspec.convert(found.get(_RECORD), EarlierImport)
    except msgspec.ValidationError:
        return None


def _remember(
    ctx: ConversionContext,
    request: CloneRequest,
    record: EarlierImport,
    metadata: Mapping[str, Any],
) -> None:
    """Let the repository say what it was made from, so that nobody imports the same again."""
    found = ctx.read_repo_metadata(destination_repo=request.destination)
    said = {**(found.get("metadata") or {}), _RECORD: msgspec.to_builtins(record)}
    said |= {name: metadata[name] for name in ("license", "license_link") if metadata.get(name)}
    ctx.write_repo_metadata(destination_repo=request.destination, metadata=said)


def _check_digests(stored: Produced, made: MadeFlavor) -> None:
    """Compare what was sent of the source's own files with what the source says they are."""
    for part in stored.parts:
        told, sent = made.digests.get(part.path, ""), part.facts.get("sha256")
        if sent and told.startswith("sha256:") and told != f"sha256:{sent}":
            raise ArtifactTransferError(
                f"file {part.path!r} is {sent} as it was sent, and {told} where it comes from: "
                "import it again",
                phase="publish",
            )


def _repo_spec(spec: Mapping[str, str]) -> RepoSpec:
    known = RepoSpec.__annotations__
    return msgspec.convert({name: text for name, text in spec.items() if name in known}, RepoSpec)


def _output(
    stored: Sequence[Produced], checkpoints: Sequence[CheckpointRef], answer: Mapping[str, Any]
) -> ConversionOutput:
    files = [(one.label, part.path, _tensors(part.facts)) for one in stored for part in one.parts]
    first = [file for file in files if file[0] == stored[0].label]
    primary = max(first, key=lambda file: _rank(file[1], file[2]))
    return ConversionOutput(
        weights=primary[2],
        metadata={
            "flavors": [one.label for one in stored],
            "checkpoints": [msgspec.to_builtins(one) for one in checkpoints],
            "published": dict(answer),
        },
        additional_artifacts=[
            ConversionArtifact(path=f"{label}/{path}", tensors=tensors)
            for label, path, tensors in files
            if (label, path) != primary[:2]
        ],
    )


def _rank(path: str, tensors: Tensors) -> tuple[int, int]:
    """Return how much a file stands for a model: an index, else the most weights."""
    is_index = ".safetensors.index" in path
    suffix = os.path.splitext(path)[1]
    return (is_index * 2 + (suffix in (".safetensors", ".gguf")), tensors.size_bytes or 0)


def _tensors(facts: Mapping[str, Any]) -> Tensors:
    return Tensors(**{name: value for name, value in facts.items() if name in _FACTS})
