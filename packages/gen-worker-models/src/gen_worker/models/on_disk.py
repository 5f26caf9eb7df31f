"""Models on this machine's disk, whichever provider they came from: listed, found, removed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import ModelResolutionError, ValidationError
from gen_worker.models.refs import TensorhubRef, identity, parse_prefixed_ref
from gen_worker.models.sources.huggingface.cache import is_commit
from gen_worker.models.sources.resolutions import Resolutions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gen_worker.models.store import ContentStore

__all__ = ["ModelNotHereError", "ModelsOnDisk", "StoredModel"]

_DIGEST = re.compile(r"(?:blake3:)?([0-9a-f]{6,64})")
_HUB = "tensorhub:"


class ModelNotHereError(ModelResolutionError, FileNotFoundError):
    """No model on this machine has this name."""


class StoredModel(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model that is here."""

    provider: str
    names: tuple[str, ...]
    """Refs that meant it when they were last resolved, as a person types them."""
    digest: str
    """64 hex digits of a snapshot, a commit of Hugging Face, or a version id of Civitai."""
    path: str
    size_bytes: int
    files: int
    last_use: float
    """Seconds since the epoch."""
    used_by: tuple[str, ...] = ()
    """Live processes; known of the content store only."""
    is_pinned: bool = False
    is_damaged: bool = False
    """It is fetched again before it is used."""
    parts: Mapping[str, int] = {}
    """Bytes of each file on the disk; models may share some."""
    manifest: str = ""
    """Of a model of Civitai: the SHA-256 of its sorted `<sha256> <name>` lines."""


class ModelsOnDisk:
    """What the content store and the cache of Hugging Face hold. Blocking."""

    def __init__(self, store: ContentStore, hf_home: str) -> None:
        self._store = store
        self._hub = os.path.join(hf_home, "hub")
        self._known = Resolutions(store)

    def models(self) -> list[StoredModel]:
        """List every model, least recently used first."""
        names = self._names()
        found = [*self._snapshots(names), *self._civitai(names), *self._huggingface()]
        return sorted(found, key=lambda model: model.last_use)

    def find(self, word: str) -> StoredModel:
        """Return the model that a ref or the beginning of a digest names.

        Raises:
            ModelNotHereError: There is none.
            ValidationError: It is no ref, or several digests begin like this.
        """
        models = self.models()
        digest = _DIGEST.fullmatch(word)
        if digest is not None:
            found = [model for model in models if model.digest.startswith(digest[1])]
        else:
            ref = parse_prefixed_ref(word)
            pin = ref.digest.partition(":")[2] if isinstance(ref, TensorhubRef) else ""
            name = _typed(identity(ref))
            found = [x for x in models if name in x.names or (pin and pin == x.digest)]
        if len(found) > 1:
            several = ", ".join(model.digest for model in found)
            raise ValidationError(f"{word!r} can mean {several}: give more digits")
        if not found:
            raise ModelNotHereError(
                f"model {word!r} is not on this machine: `gen-worker models ls` lists what is",
            )
        return found[0]

    def remove(self, model: StoredModel) -> int:
        """Remove a model and what only it needs; return the bytes freed.

        Raises:
            SnapshotInUseError: A process uses it.
        """
        if model.provider == "hf":
            return self._remove_commit(model)
        if model.provider == "civitai":
            from gen_worker.models.store.durable import remove_tree

            remove_tree(model.path)
            freed = sum(model.parts.values())
        else:
            freed = self._store.remove(model.digest)
        self._known.forget(model.digest)
        return freed

    def distrust(self, model: StoredModel) -> None:
        """Have a model's files read, and fetched where they are wrong, before its next use."""
        self._known.forget(model.digest)

    def _names(self) -> dict[str, list[str]]:
        """Return the refs of each digest."""
        names: dict[str, list[str]] = {}
        for resolved in self._known.all():
            typed = _typed(resolved.key.removeprefix("hub ").partition("[")[0])
            listed = names.setdefault(resolved.digest, [])
            if typed not in listed:
                listed.append(typed)
        return names

    def _snapshots(self, names: Mapping[str, Sequence[str]]) -> Iterator[StoredModel]:
        for found in self._store.snapshots():
            parts = {blob: self._blob_bytes(blob) for blob in found.blobs}
            yield StoredModel(
                provider="tensorhub",
                names=tuple(sorted(names.get(found.digest, ()))),
                digest=found.digest,
                path=found.path,
                size_bytes=found.size_bytes,
                files=found.files,
                last_use=found.last_use,
                used_by=self._store.users(found.digest),
                is_pinned=found.is_pinned,
                is_damaged=found.is_damaged,
                parts={**parts, found.path: found.own_bytes},
            )

    def _blob_bytes(self, digest: str) -> int:
        try:
            return os.stat(self._store.blob_path(digest)).st_size
        except OSError:
            return 0

    def _civitai(self, names: Mapping[str, Sequence[str]]) -> Iterator[StoredModel]:
        manifests = {
            resolved.digest: resolved.attributes.get("source_revision", "").partition(":")[2]
            for resolved in self._known.all()
        }
        for version, path in _folders(os.path.join(self._store.root, "civitai")):
            known = names.get(version) or (f"civitai:versions/{version}",)
            model = _measured("civitai", version, path, known)
            yield msgspec.structs.replace(model, manifest=manifests.get(version, ""))

    def _huggingface(self) -> Iterator[StoredModel]:
        for name, folder in _folders(self._hub):
            if not name.startswith("models--"):
                continue
            repo_id = name.removeprefix("models--").replace("--", "/", 1)
            for commit, path in _folders(os.path.join(folder, "snapshots")):
                if is_commit(commit):
                    yield _measured("hf", commit, path, _revisions(folder, repo_id, commit))

    def _remove_commit(self, model: StoredModel) -> int:
        """Remove a commit from the cache of Hugging Face, and blobs no other commit links to."""
        from gen_worker.models.store.durable import remove_tree

        folder = os.path.dirname(os.path.dirname(model.path))
        others = [path for _, path in _folders(os.path.dirname(model.path)) if path != model.path]
        kept = {part for path in others for part in _parts(path)}
        remove_tree(model.path)
        for revision, commit in _refs(folder):
            if commit == model.digest:
                os.unlink(os.path.join(folder, "refs", revision))
        gone = {path: size for path, size in model.parts.items() if path not in kept}
        for path in gone:
            with suppress(FileNotFoundError):
                os.unlink(path)
        if not others:
            remove_tree(folder)
        self._known.forget(model.digest)
        return sum(gone.values())


def _typed(key: str) -> str:
    """Return an identity as a person types it: the hub needs no prefix."""
    return key.removeprefix(_HUB)


def _measured(provider: str, digest: str, path: str, names: Sequence[str]) -> StoredModel:
    parts = _parts(path)
    return StoredModel(
        provider=provider,
        names=tuple(sorted(names)),
        digest=digest,
        path=path,
        size_bytes=sum(parts.values()),
        files=len(parts),
        last_use=max(map(_used_at, (path, *parts))),
        parts=parts,
    )


def _parts(root: str) -> dict[str, int]:
    """Return the real files below a directory, each once, with their sizes."""
    parts: dict[str, int] = {}
    for parent, _, names in os.walk(root):
        for name in names:
            path = os.path.realpath(os.path.join(parent, name))
            with suppress(OSError):
                parts[path] = os.stat(path).st_size
    return parts


def _used_at(path: str) -> float:
    try:
        found = os.stat(path)
    except OSError:
        return 0.0
    return max(found.st_atime, found.st_mtime) if os.path.isfile(path) else found.st_mtime


def _folders(path: str) -> Iterator[tuple[str, str]]:
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return
    for name in names:
        full = os.path.join(path, name)
        if os.path.isdir(full):
            yield name, full


def _refs(folder: str) -> Iterator[tuple[str, str]]:
    """Yield each branch and tag of a repository's cache, and its commit."""
    root = os.path.join(folder, "refs")
    for parent, _, names in os.walk(root):
        for name in names:
            path = os.path.join(parent, name)
            with suppress(OSError, ValueError), open(path, encoding="ascii") as file:
                yield os.path.relpath(path, root).replace(os.sep, "/"), file.read().strip()


def _revisions(folder: str, repo_id: str, commit: str) -> tuple[str, ...]:
    names = [revision for revision, meant in _refs(folder) if meant == commit]
    if not names:
        return (f"hf:{repo_id}@{commit}",)
    return tuple(f"hf:{repo_id}" if name == "main" else f"hf:{repo_id}@{name}" for name in names)
