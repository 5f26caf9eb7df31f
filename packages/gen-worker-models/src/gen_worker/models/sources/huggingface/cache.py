"""The cache of Hugging Face tools on disk: blobs by hash, snapshots that link to them, refs."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from gen_worker.errors import ModelResolutionError
from gen_worker.models.sources.replacing import link, replacing
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RepoCache", "is_commit"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def is_commit(revision: str) -> bool:
    """Tell whether a revision can never mean something else."""
    return _COMMIT.fullmatch(revision) is not None


class RepoCache:
    """The part of the cache that holds one repository; other tools use it at the same time."""

    def __init__(self, home: str, repo_id: str) -> None:
        """Use the cache below `home`, the value of `HF_HOME`."""
        name = f"models--{repo_id.replace('/', '--')}"
        self.directory = os.path.join(os.path.abspath(home), "hub", name)

    def snapshot(self, commit: str) -> str:
        _require(_COMMIT, commit, "commit")
        return os.path.join(self.directory, "snapshots", commit)

    def blob(self, etag: str) -> str:
        _require(_ETAG, etag, "hash")
        return os.path.join(self.directory, "blobs", etag)

    def commit_of(self, revision: str) -> str:
        """Return what a branch or tag meant when it was last asked for; empty when unknown."""
        if is_commit(revision):
            return revision
        try:
            with open(self._ref(revision), encoding="ascii") as file:
                commit = file.read().strip()
        except (OSError, ValueError):
            return ""
        return commit if is_commit(commit) else ""

    def note(self, revision: str, commit: str) -> None:
        """Keep what a branch or tag means."""
        if is_commit(revision) or self.commit_of(revision) == commit:
            return
        with replacing(self._ref(revision)) as draft, open(draft, "x", encoding="ascii") as file:
            file.write(commit)

    def link(self, commit: str, path: str, etag: str) -> None:
        """Put a blob into a snapshot under its name: a link, or a copy where there are none."""
        target, blob = safe_join(self.snapshot(commit), path), self.blob(etag)
        if not _is_same(target, blob):
            link(target, blob)

    def files_of(self, commit: str) -> Iterator[tuple[str, int]]:
        """Yield path and size of every file of a snapshot that is here."""
        root = self.snapshot(commit)
        for parent, _, names in os.walk(root):
            for name in names:
                full = os.path.join(parent, name)
                with suppress(OSError):  # a link to a blob that is gone
                    yield os.path.relpath(full, root).replace(os.sep, "/"), os.stat(full).st_size

    def _ref(self, revision: str) -> str:
        return safe_join(os.path.join(self.directory, "refs"), revision)


def _is_same(target: str, blob: str) -> bool:
    try:
        return os.path.samefile(target, blob)
    except OSError:
        return False


def _require(pattern: re.Pattern[str], text: str, what: str) -> None:
    """Refuse what an answer of the network would make a path of."""
    if not pattern.fullmatch(text):
        raise ModelResolutionError(
            f"Hugging Face names the {what} {text!r:.100}, which is none",
            provider="hf",
            phase="resolve",
        )
