"""What a snapshot's directory will hold, decided before a file is made.

Files are blobs under their paths. A large file may come in parts: `<path>.parts.json` names them in
order, and neither it nor the parts appear in the tree. Its content comes from outside and is
checked like any other input.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.models.snapshot import Snapshot, SnapshotFile, parse_blake3
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Joined", "Linked", "Tree", "Written", "expected_extra_bytes", "lay_out"]

_LIST_SUFFIX = ".parts.json"
_PART = re.compile(r"(.+)\.part[0-9]{4}", re.DOTALL)
_MAX_LIST_BYTES = 16 * 1024 * 1024


class Linked(NamedTuple):
    """A file that is a blob."""

    path: str
    size_bytes: int
    blake3: str


class Joined(NamedTuple):
    """A file that is made of blobs, one after the other."""

    path: str
    size_bytes: int
    parts: tuple[tuple[str, int], ...]
    """Digest and size of each."""


class Written(NamedTuple):
    """A file whose content is given."""

    path: str
    content: bytes


class Tree(NamedTuple):
    """All files of a snapshot's directory."""

    linked: tuple[Linked, ...]
    joined: tuple[Joined, ...]
    written: tuple[Written, ...]


def expected_extra_bytes(snapshot: Snapshot) -> int:
    """Return how much joining will need, as far as the names of the parts tell."""
    if not _lists(snapshot):
        return 0
    return sum(file.size_bytes for file in snapshot.files if _PART.fullmatch(file.path))


def lay_out(
    snapshot: Snapshot, read: Callable[[SnapshotFile], bytes], generated: Mapping[str, bytes]
) -> Tree:
    """Decide the tree of a snapshot.

    Args:
        snapshot: Its blobs are all here.
        read: Gives the bytes of a list of parts.
        generated: Files that are written instead of, or beside, the snapshot's own.

    Raises:
        ValidationError: A list of parts is malformed, or two files have one name.
    """
    lists = _lists(snapshot)
    joined = tuple(_joined(snapshot, file, read) for file in lists)
    size, room = sum(file.size_bytes for file in joined), expected_extra_bytes(snapshot)
    if size > room:
        raise ValidationError(
            f"snapshot {snapshot.digest} joins parts to {size} bytes, but its parts have {room}"
        )
    hidden = {file.path for file in lists} | set(generated)
    whole = {x.path for x in joined} | {x.path.removesuffix(_LIST_SUFFIX) for x in lists}
    linked = tuple(
        Linked(file.path, file.size_bytes, file.blake3)
        for file in snapshot.files
        if file.path not in hidden and not _is_part(file.path, whole)
    )
    written = tuple(Written(safe_join("", path), text) for path, text in generated.items())
    tree = Tree(linked, tuple(x for x in joined if x.path not in generated), written)
    _refuse_clashes(snapshot, tree)
    return tree


def _lists(snapshot: Snapshot) -> list[SnapshotFile]:
    return [file for file in snapshot.files if file.path.endswith(_LIST_SUFFIX)]


def _is_part(path: str, whole: set[str]) -> bool:
    match = _PART.fullmatch(path)
    return match is not None and match[1] in whole


def _refuse_clashes(snapshot: Snapshot, tree: Tree) -> None:
    """Have the value check the names that a list of parts or a caller brought in."""
    paths = [entry.path for group in tree for entry in group]
    files = [SnapshotFile(path=path, size_bytes=0, blake3=snapshot.digest) for path in paths]
    Snapshot(digest=snapshot.digest, files=tuple(files))


def _joined(
    snapshot: Snapshot, file: SnapshotFile, read: Callable[[SnapshotFile], bytes]
) -> Joined:
    try:
        return _checked_list(snapshot, _decoded(file, read))
    except ValueError as error:  # ValidationError is one
        raise ValidationError(
            f"list of parts {file.path!r} of snapshot {snapshot.digest} is wrong: {error}"
        ) from error


def _decoded(file: SnapshotFile, read: Callable[[SnapshotFile], bytes]) -> dict[str, Any]:
    if file.size_bytes > _MAX_LIST_BYTES:
        raise ValidationError(f"it has {file.size_bytes} bytes, at most {_MAX_LIST_BYTES}")
    content = msgspec.json.decode(read(file))
    if not isinstance(content, dict):
        raise ValidationError("it is no object")
    return content


def _checked_list(snapshot: Snapshot, content: dict[str, Any]) -> Joined:
    original, total, parts = (content.get(x) for x in ("original_path", "total_bytes", "parts"))
    if not isinstance(original, str):
        raise ValidationError("it has no `original_path`")
    if not isinstance(parts, list) or not parts:
        raise ValidationError("it has no `parts`")
    known = {file.blake3: file.size_bytes for file in snapshot.files}
    checked = tuple(_part(part, known) for part in parts)
    size = sum(size for _, size in checked)
    if type(total) is not int or total != size:
        raise ValidationError(f"`total_bytes` is {total!r}, its parts have {size}")
    return Joined(safe_join("", original), size, checked)


def _part(part: object, known: Mapping[str, int]) -> tuple[str, int]:
    if not isinstance(part, dict) or not isinstance(part.get("digest"), str):
        raise ValidationError(f"part {part!r:.120} has no `digest`")
    digest, size = parse_blake3(part["digest"]), part.get("size_bytes")
    if digest not in known:
        raise ValidationError(f"part {digest} is none of the snapshot's files")
    if type(size) is not int or size != known[digest]:
        raise ValidationError(f"part {digest} has {size!r} bytes, the manifest says otherwise")
    return digest, size
