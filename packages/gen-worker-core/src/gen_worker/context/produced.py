"""From the artifacts a function returned to stored files and the manifest of a revision."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.context.lineage import quantization_facts, relationship_of
from gen_worker.context.media import weights_format
from gen_worker.context.outputs import check_size, file_size
from gen_worker.context.refs import output_ref
from gen_worker.errors import ValidationError
from gen_worker.ports import SaveOptions
from gen_worker.types import ProducedFlavor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gen_worker.context.producers import ProducerContext

__all__ = [
    "Produced",
    "StoredPart",
    "asked_for",
    "check_labels",
    "dataset_info",
    "label_of",
    "labels_of",
    "produced_flavors",
    "store_flavor",
]

_LABEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_NOT_METADATA = frozenset({"flavor", "flavors", "produced_by_kind", "produced_by_job_id"})


class StoredPart(NamedTuple):
    """One stored file of an artifact."""

    path: str
    """Relative to the artifact, as manifests name it."""
    facts: Mapping[str, Any]
    """What the host knows of it: `ref`, `size_bytes`, digests."""

    @property
    def digest(self) -> str:
        """`<algorithm>:<hex>`; empty when the host gave none."""
        named = self.facts.get("blob_digest") or self.facts.get("digest")
        if named:
            return str(named)
        for algorithm in ("blake3", "sha256"):
            if self.facts.get(algorithm):
                return f"{algorithm}:{self.facts[algorithm]}"
        return ""


class Produced(NamedTuple):
    """One artifact whose files are stored."""

    flavor: ProducedFlavor
    label: str
    parts: tuple[StoredPart, ...]

    @property
    def labels(self) -> list[str]:
        return labels_of(self.flavor)

    def entries(self) -> list[dict[str, Any]]:
        """Return the manifest's entries; a file without a digest cannot be one."""
        return [
            {"path": part.path, "digest": part.digest, "size_bytes": part.facts.get("size_bytes")}
            for part in self.parts
            if part.digest
        ]

    def manifest(self, job_kind: str = "") -> dict[str, Any]:
        """Return what a revision of this kind of job says about this artifact."""
        attributes = self.flavor.attributes
        told = {
            "flavor": self.label,
            "flavors": self.labels,
            "display_label": self.label,
            "snapshot_manifest": self.entries(),
            "metadata": {k: v for k, v in attributes.items() if k not in _NOT_METADATA},
            "replaces_latest": True,  # it is whole: no file of the flavor before belongs to it
        }
        if relationship_of(job_kind) == "quantization":
            facts = quantization_facts(self.label, attributes)
            as_it_is = {"relationship_kind": "format-conversion"}  # as a cast beside the others
            told |= {"lineage_metadata": facts} if facts else as_it_is
        return told

    def summary(self) -> dict[str, Any]:
        """Return what the caller of the function gets to see."""
        files = [
            {"path": part.path, **{k: v for k, v in part.facts.items() if v is not None}}
            for part in self.parts
        ]
        return {
            "flavor": self.label,
            "flavors": self.labels,
            "attributes": self.flavor.attributes,
            "files": files,
        }


def produced_flavors(result: Any) -> Iterator[ProducedFlavor]:
    """Yield the artifacts of a result: an iterable of `ProducedFlavor`, or None.

    Raises:
        TypeError: It is something else.
    """
    if result is None:
        return
    if isinstance(result, (str, bytes, dict)) or not hasattr(result, "__iter__"):
        raise TypeError(
            f"the function must return a list of ProducedFlavor, not {type(result).__name__}"
        )
    for index, item in enumerate(result):
        if not isinstance(item, ProducedFlavor):
            raise TypeError(f"artifact {index} must be a ProducedFlavor, not {type(item).__name__}")
        yield item


def asked_for(flavor: ProducedFlavor, index: int, outputs: Any) -> ProducedFlavor:
    """Return an artifact with the attributes that the payload's `outputs` asked of it, too.

    Args:
        flavor: As the function returned it; what it says itself counts.
        index: Its place among the artifacts: the place of what it answers to in `outputs`.
        outputs: Of the payload.

    Raises:
        ValidationError: An attribute is one that only the hub may set.
    """
    entry = outputs[index] if isinstance(outputs, list) and index < len(outputs) else None
    asked = entry.get("attributes") if isinstance(entry, dict) else None
    attributes = {**(asked if isinstance(asked, dict) else {}), **flavor.attributes}
    reserved = sorted(name for name in attributes if str(name).startswith("_"))
    if reserved:
        raise ValidationError(
            f"artifact {index} has the attributes {reserved}: names that begin with '_' are the "
            "hub's, choose others"
        )
    return msgspec.structs.replace(flavor, attributes=attributes)


def label_of(flavor: ProducedFlavor) -> str:
    """Return the primary label, such as `bf16`: given, from the attributes, or the file's name."""
    attributes = flavor.attributes
    told = flavor.flavor or attributes.get("flavor") or attributes.get("quant_recipe")
    return _label(told or os.path.basename(os.path.normpath(flavor.path)))


def labels_of(flavor: ProducedFlavor) -> list[str]:
    """Return all labels, each once; the primary one is the first unless it is among the others."""
    primary, given = label_of(flavor), list(dict.fromkeys(map(_label, flavor.flavors)))
    return given if primary in given else [primary, *given]


def check_labels(flavor: ProducedFlavor, taken: set[str]) -> None:
    """Refuse labels that another artifact has, or that no ref can name.

    Args:
        flavor: An artifact.
        taken: Labels of others; those of this one are added.

    Raises:
        ValidationError: Names the label.
    """
    for label in labels_of(flavor):
        if not _LABEL.fullmatch(label):
            raise ValidationError(
                f"flavor {label!r:.120} cannot be named by a ref: use 1 to 63 of a-z 0-9 . _ -"
            )
        if label in taken:
            raise ValidationError(
                f"two artifacts have the flavor {label!r}: give each a `flavor` of its own"
            )
    taken.update(labels_of(flavor))


def _label(text: Any) -> str:
    """Return a label as refs write it: `fp8-e4m3` for `fp8:e4m3`."""
    return str(text).strip().lower().replace(":", "-").replace("/", "-")


async def store_flavor(
    ctx: ProducerContext,
    flavor: ProducedFlavor,
    destination: str,
    spec: Mapping[str, Any],
    names: set[str],
) -> Produced:
    """Store every file of one artifact.

    Args:
        ctx: The call.
        flavor: Its `path` is a file or a directory, which is stored whole.
        destination: Whose revision the files go to; without one they become plain outputs.
        spec: What that revision is opened with.
        names: Directory names taken by other artifacts of the call; this one's is added.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: Two files would have the same place.
    """
    folder = _free_name(os.path.basename(os.path.normpath(flavor.path)), names)
    root_is_file = os.path.isfile(flavor.path)
    parts = []
    for relative, path in _files_of(flavor).items():
        place = folder if root_is_file and not flavor.extra_files else f"{folder}/{relative}"
        facts = await _store(
            ctx, output_ref(place, ctx.workspace_scope_id), path, destination, spec
        )
        parts.append(StoredPart(relative, facts))
    return Produced(flavor, label_of(flavor), tuple(parts))


def dataset_info(flavor: ProducedFlavor) -> dict[str, Any]:
    """Return the `dataset_info.json` of a dataset; empty when it has none.

    Raises:
        ValidationError: It is no JSON object.
    """
    path = os.path.join(flavor.path, "dataset_info.json")
    try:
        with open(path, "rb") as file:
            info: dict[str, Any] = msgspec.json.decode(file.read(), type=dict[str, Any])
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except msgspec.MsgspecError as error:
        raise ValidationError(f"{path!r} is no JSON object: {error}") from error
    return info


async def _store(
    ctx: ProducerContext, ref: str, path: str, destination: str, spec: Mapping[str, Any]
) -> Mapping[str, Any]:
    from pathlib import Path

    early = await ctx._early_facts(path)
    if early is not None:
        return early
    check_size(file_size(path))
    revisions = ctx._revisions
    if revisions is not None and destination:
        session = await revisions.session(destination, spec)
        return await revisions.put(session, ref, Path(path))
    options = SaveOptions(checkpoint_format=weights_format(path) or "unknown")
    stored = await ctx._files.save(ref, Path(path), options, request_id=ctx.request_id)
    return msgspec.structs.asdict(stored)


def _free_name(name: str, names: set[str]) -> str:
    """Return a name no other artifact has: `model.gguf`, then `model-2.gguf` and so on."""
    stem, suffix = os.path.splitext(name)
    free, count = name, 1
    while free in names:
        count += 1
        free = f"{stem}-{count}{suffix}"
    names.add(free)
    return free


def _files_of(flavor: ProducedFlavor) -> dict[str, str]:
    """Return the files of an artifact, from their path within it to where they are, sorted."""
    root = os.fspath(flavor.path)
    if not os.path.exists(root):
        raise FileNotFoundError(f"produced artifact {root!r} does not exist")
    files = dict(_walk(root)) if os.path.isdir(root) else {os.path.basename(root): root}
    for given in flavor.extra_files:
        extra = os.fspath(given)
        name = os.path.basename(extra)
        if not os.path.isfile(extra):
            raise FileNotFoundError(f"extra file {extra!r} does not exist")
        if name in files:
            raise ValueError(f"extra file {extra!r} has the name of a file of {root!r}")
        files[name] = extra
    return dict(sorted(files.items()))


def _walk(root: str) -> Iterator[tuple[str, str]]:
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            yield os.path.relpath(path, root).replace(os.sep, "/"), path
