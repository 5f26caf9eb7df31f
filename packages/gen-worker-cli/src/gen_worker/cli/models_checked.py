"""Reads models of every provider again, and has damaged ones fetched again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gen_worker.errors import WorkerError
from gen_worker.models.choice import ModelChoice
from gen_worker.models.fetch.digests import hash_file
from gen_worker.models.refs import TensorhubRef, parse_prefixed_ref

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.models.on_disk import ModelsOnDisk, StoredModel
    from gen_worker.models.sources import Sources
    from gen_worker.models.store import ContentStore

__all__ = ["check", "repair"]

_ALGORITHMS = {40: "git-sha1", 64: "sha256"}
"""By the length of a blob's name in the cache of Hugging Face."""


def check(
    store: ContentStore,
    disk: ModelsOnDisk,
    models: Sequence[StoredModel],
    *,
    everything: bool,
    token: CancelToken,
) -> list[tuple[StoredModel, str]]:
    """Return the damaged files and whose they are; none of them is used again.

    Args:
        store: Of this machine.
        disk: Knows the models of other providers.
        models: What to read.
        everything: Whether blobs that no model needs are read too.
        token: Ends the reading.
    """
    of_the_store = {model.digest: model for model in models if model.provider == "tensorhub"}
    found: list[tuple[StoredModel, str]] = []
    for digest in (None,) if everything else of_the_store:
        for damage in store.verify(digest, token=token):
            users = [of_the_store[name] for name in damage.snapshots if name in of_the_store]
            found += [(user, damage.path) for user in users]
    for model in models:
        if model.provider == "hf":
            found += [(model, path) for path in _damaged_blobs(model, token)]
        elif model.manifest and _manifest(model, token) != model.manifest:
            disk.distrust(model)
            found.append((model, model.path))
    return list({(model.path, path): (model, path) for model, path in found}.values())


def _damaged_blobs(model: StoredModel, token: CancelToken) -> Iterator[str]:
    """Yield and remove blobs of Hugging Face's cache that do not have the hash they are named."""
    for path in model.parts:
        name = os.path.basename(path)
        algorithm = _ALGORITHMS.get(len(name))
        if os.path.basename(os.path.dirname(path)) != "blobs" or algorithm is None:
            continue
        if _hash(path, algorithm, token) != name:
            os.unlink(path)
            yield path


def _manifest(model: StoredModel, token: CancelToken) -> str:
    import hashlib

    hashes = {os.path.basename(path): _hash(path, "sha256", token) for path in model.parts}
    manifest = "\n".join(f"{hashes[name]} {name}" for name in sorted(hashes))
    return hashlib.sha256(manifest.encode()).hexdigest()


def _hash(path: str, algorithm: str, token: CancelToken) -> str:
    return hash_file(path, algorithm, token.raise_if_canceled)[0].hex


def repair(sources: Sources, model: StoredModel, token: CancelToken) -> str:
    """Fetch what is missing of a model; return why that cannot be, or nothing."""
    if not model.names:
        return "where it came from is not known: remove it"
    ref = parse_prefixed_ref(model.names[0])
    if isinstance(ref, TensorhubRef):  # the tag may mean something else by now
        ref = TensorhubRef(owner=ref.owner, repo=ref.repo, digest=f"blake3:{model.digest}")
    try:
        sources.ensure(ModelChoice.of(ref), token=token)
    except WorkerError as error:
        return str(error)
    return ""
