"""What is asked of a source, and what it answers: files on this machine, or a plan to get them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.models.refs import identity
from gen_worker.models.sources.safety import LOADABLE_SUFFIXES, suffix_of
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.models.choice import ModelChoice
    from gen_worker.models.snapshot import Snapshot
    from gen_worker.models.sources.telling import DownloadReport

__all__ = [
    "Described",
    "FetchPlan",
    "LocalModel",
    "PlannedFile",
    "Renew",
    "Request",
    "Tell",
    "key_of",
    "load_path",
]

Tell = Callable[[str, dict[str, Any]], None]
Renew = Callable[[], "Snapshot | None"]


class Described(NamedTuple):
    """What a job says that a ref means."""

    snapshot: Snapshot
    renew: Renew | None = None
    """Asks for new URLs when those of the snapshot are refused."""


class LocalModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model whose files are here, whole and verified."""

    identity: str
    """The key of the model across providers; see `gen_worker.models.refs.identity`."""
    provider: str
    ref: str
    """Canonical text."""
    path: str
    """What to load: a directory, or the one file where the model is a single file."""
    root: str
    """Directory that the paths of `files` are below."""
    digest: str
    """What exactly is here: 64 hex digits of a snapshot, a commit, or a version id."""
    files: tuple[str, ...]
    """Of this model, relative to `root`; a shared cache may have others beside them."""
    size_bytes: int
    bytes_downloaded: int = 0
    """Over the network, by this call."""
    was_cached: bool = True
    """Whether nothing had to be downloaded."""
    is_last_known: bool = False
    """Whether the hub could not be asked, and this is what the tag meant when it last answered."""
    is_localized: bool = False
    """Whether this is a copy on the local disk, of a model on NFS."""
    attributes: Mapping[str, str] = {}
    """What the provider says of the form, such as `dtype`, `file_layout` and `variant`."""


class PlannedFile(NamedTuple):
    """One file of a model."""

    path: str
    size_bytes: int
    is_present: bool


class FetchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What having a model means in files and bytes."""

    identity: str
    provider: str
    ref: str
    digest: str
    files: tuple[PlannedFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def missing_bytes(self) -> int:
        """Bytes that would be downloaded; less when a broken-off download is gone on with."""
        return sum(file.size_bytes for file in self.files if not file.is_present)


class Request(NamedTuple):
    """One question to a source."""

    choice: ModelChoice
    token: CancelToken
    report: DownloadReport
    resolved: Snapshot | None = None
    """What an orchestrator says the ref means."""
    renew: Renew | None = None
    """Asks whoever gave `resolved` for new URLs."""


def key_of(choice: ModelChoice) -> str:
    """Return the text that two choices share when they mean the same files."""
    options = (
        choice.dtype,
        choice.subfolder,
        list(choice.allow_patterns),
        sorted((name, list(values)) for name, values in choice.attributes.items()),
    )
    chosen = msgspec.json.encode(options).decode() if any(options) else ""
    return identity(choice.target) + chosen


def load_path(root: str, files: Sequence[str], subfolder: str = "") -> str:
    """Return what of a tree is loaded: its only weights file, if nothing else tells how."""
    base = safe_join(root, subfolder) if subfolder else root
    weights = [path for path in files if suffix_of(path) in LOADABLE_SUFFIXES]
    has_layout = any(path.endswith(("config.json", "model_index.json")) for path in files)
    if len(weights) == 1 and not has_layout and "/" not in weights[0] and not subfolder:
        return os.path.join(root, weights[0])
    return base
