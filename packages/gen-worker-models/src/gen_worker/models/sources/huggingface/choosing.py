"""Asking a repository, near or far, what the selection of its files depends on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gen_worker.models.sources.huggingface.remote import decoded, dtypes_in
from gen_worker.models.sources.huggingface.selection import (
    Known,
    Selection,
    Wanted,
    questions,
    select,
)
from gen_worker.models.sources.precisions import shared_precision, short_precision

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.models.choice import ModelChoice
    from gen_worker.models.sources.huggingface.options import HuggingFaceOptions
    from gen_worker.models.sources.huggingface.remote import Remote

__all__ = ["LocalReader", "Reader", "RemoteReader", "choose", "shared_dtype"]


class Reader(Protocol):
    """Reads small parts of a repository's files; paths are from its root."""

    def document(self, path: str) -> Any:
        """Return a file of JSON, decoded; None when it is none."""
        ...

    def dtypes(self, path: str) -> frozenset[str] | None:
        """Return the dtypes in a safetensors file; None when they cannot be told."""
        ...


class RemoteReader(NamedTuple):
    """Files on the site."""

    remote: Remote
    repo_id: str
    commit: str
    token: CancelToken

    def document(self, path: str) -> Any:
        return self.remote.document(self.repo_id, self.commit, path, self.token)

    def dtypes(self, path: str) -> frozenset[str] | None:
        return self.remote.dtypes(self.repo_id, self.commit, path, self.token)


class LocalReader(NamedTuple):
    """Files that are here."""

    root: str

    def document(self, path: str) -> Any:
        try:
            with open(self._place(path), "rb") as file:
                return decoded(file.read())
        except OSError:
            return None

    def dtypes(self, path: str) -> frozenset[str] | None:
        try:
            with open(self._place(path), "rb") as file:

                def read(start: int, count: int) -> bytes:
                    file.seek(start)
                    return file.read(count)

                return dtypes_in(read)
        except OSError:
            return None

    def _place(self, path: str) -> str:
        return os.path.join(self.root, *path.split("/"))


def choose(
    choice: ModelChoice,
    options: HuggingFaceOptions,
    sizes: Mapping[str, int],
    reader: Reader,
    *,
    is_whole_cache: bool = False,
) -> Selection:
    """Return the files a choice means; their paths, like those of `sizes`, are from the root."""
    wanted = Wanted(
        ref=str(choice.target),
        dtype=short_precision(choice.dtype),
        precisions=options.precisions,
        patterns=choice.allow_patterns,
        takes_all=options.takes_all,
        max_bytes=options.max_repo_bytes,
    )
    base = f"{choice.subfolder}/" if choice.subfolder else ""
    below = {path[len(base) :]: size for path, size in sizes.items() if path.startswith(base)}
    known = Known(below, {}, {})
    asked = questions(known, wanted).documents
    known = known._replace(documents={path: reader.document(base + path) for path in asked})
    asked = questions(known, wanted).headers
    known = known._replace(dtypes={path: reader.dtypes(base + path) for path in asked})
    selection = select(known, wanted, is_whole_cache=is_whole_cache)
    return selection._replace(files=tuple(base + path for path in selection.files))


def shared_dtype(root: str, files: Iterable[str]) -> str:
    """Return the precision that all weights here share; empty when they do not."""
    reader = LocalReader(root)
    found: set[str] = set()
    for path in files:
        if path.endswith(".safetensors"):
            found |= reader.dtypes(path) or frozenset()
    return shared_precision(found)
