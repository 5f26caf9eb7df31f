"""What the orchestrator says to a worker: jobs, commands and configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gen_worker.runtime.wire.records import Record

__all__ = [
    "DisabledFunction",
    "DownloadModel",
    "Drain",
    "EndpointConfig",
    "Inbound",
    "InterruptJob",
    "JobRequest",
    "LoadModel",
    "RefStatus",
    "ResolvedCompute",
    "ResolvedLora",
    "ResolvedModel",
    "ResolvedRepo",
    "ResolvedRepoFile",
    "UnloadModel",
]


class ResolvedCompute(Record, frozen=True, kw_only=True):
    """The hardware chosen for one request."""

    accelerator: str = ""
    """`cuda` or `none`."""
    min_compute_capability: str = ""
    vram_gb: int = 0
    gpu_count: int = 0
    gpu_tier: str = ""
    memory_gb: int = 0
    cpu_cores: int = 0
    disk_gb: int = 0
    gpu_index: int = 0
    """Which of this machine's GPUs, from 0."""


class ResolvedLora(Record, frozen=True, kw_only=True):
    """An adapter to apply to a model."""

    ref: str
    tag: str = ""
    flavor: str = ""
    provider: str = ""
    weight: float = 0.0
    compatibility_status: str = ""
    """`verified`, `unknown`, `not_checked`, …"""
    compatibility_detail: str = ""


class ResolvedModel(Record, frozen=True, kw_only=True):
    """The model that fills one slot of a function."""

    slot_name: str = ""
    ref: str
    tag: str = ""
    """Empty means `prod`."""
    flavor: str = ""
    provider: str = ""
    """Empty means `tensorhub`."""
    source: str = ""
    """`default` or `override`."""
    checkpoint_id: str = ""
    compatibility_status: str = ""
    compatibility_detail: str = ""
    loras: tuple[ResolvedLora, ...] = ()


class ResolvedRepoFile(Record, frozen=True, kw_only=True):
    """One file of a repository and where to read it."""

    secrets: ClassVar[frozenset[str]] = frozenset({"url"})

    path: str
    size_bytes: int = 0
    blake3: str = ""
    """Hexadecimal."""
    url: str = ""
    """Signed: whoever has it may read the file."""


class ResolvedRepo(Record, frozen=True, kw_only=True):
    """The files that a ref meant when the orchestrator looked it up."""

    snapshot_digest: str = ""
    files: tuple[ResolvedRepoFile, ...] = ()


class JobRequest(Record, frozen=True, kw_only=True):
    """Run a function."""

    secrets: ClassVar[frozenset[str]] = frozenset({"capability_token"})

    request_id: str
    function: str
    """Its slug."""
    payload: bytes = b""
    """One MessagePack map."""
    timeout_ms: int = 0
    """0 means none."""
    owner: str = ""
    """Slug of who invokes; the wire calls the field `tenant`."""
    invoker_id: str = ""
    file_base_url: str = ""
    """Of the file and repository API; empty leaves it to the worker's settings."""
    repos: Mapping[str, ResolvedRepo] = {}
    """By ref, as the orchestrator spells it: `ref_index` finds an entry by its canonical text."""
    job_id: str = ""
    capability_token: str = ""
    """Bearer token for that API, for this job only."""
    compute: ResolvedCompute | None = None
    """None: the orchestrator said nothing. One with zeros was sent on purpose."""
    hints: Mapping[str, str] = {}
    models: Mapping[str, ResolvedModel] = {}
    """By slot."""


class InterruptJob(Record, frozen=True, kw_only=True):
    """Cancel a request."""

    request_id: str
    item_ids: tuple[str, ...] = ()
    """Only these items; empty means the whole request."""
    cancel_queued_only: bool = False
    assignment_attempt_epoch: int = 0


class LoadModel(Record, frozen=True, kw_only=True):
    """Bring a model into GPU memory."""

    model_id: str


class DownloadModel(Record, frozen=True, kw_only=True):
    """Bring a model onto the disk."""

    model_id: str
    ref: str = ""
    """Empty means that `model_id` is the ref."""
    priority: int = 0
    """Higher is kept longer."""


class UnloadModel(Record, frozen=True, kw_only=True):
    """Give a model's memory back."""

    model_id: str


class Drain(Record, frozen=True, kw_only=True):
    """Take no more jobs, finish those under way."""

    reason: str = ""
    deadline_unix_ms: int = 0
    """0 leaves it to the worker's settings."""
    terminate_after_deadline: bool = False


class DisabledFunction(Record, frozen=True, kw_only=True):
    """A function that is neither advertised nor run."""

    function: str
    model_key: str = ""
    ref: str = ""
    reason: str = ""
    """`read_access_revoked`, `repo_deleted`, `flavor_not_found`."""
    detail: str = ""
    detected_at_unix: int = 0
    """Seconds."""


class RefStatus(Record, frozen=True, kw_only=True):
    """What the orchestrator knows about the ref of one key."""

    ref: str = ""
    status: str = ""
    """`resolved`, `access_revoked`, `repo_deleted`, `flavor_not_found`, `transient_error`."""
    reason: str = ""
    detail: str = ""
    last_checked_unix: int = 0
    """Seconds."""


class EndpointConfig(Record, frozen=True, kw_only=True):
    """Which models and functions this worker may serve."""

    supported_refs: tuple[str, ...] = ()
    """Most wanted first; empty or `*` is no restriction."""
    ref_by_key: Mapping[str, str] = {}
    """For all functions."""
    repos: Mapping[str, ResolvedRepo] = {}
    """By ref, as the orchestrator spells it."""
    required_refs: tuple[str, ...] = ()
    """To fetch before anybody asks for them."""
    models_by_function: Mapping[str, Mapping[str, str]] = {}
    """Function to key to ref."""
    disabled_functions: tuple[DisabledFunction, ...] = ()
    ref_status_by_function: Mapping[str, Mapping[str, RefStatus]] = {}
    """Function to key to status."""


Inbound = (
    JobRequest | LoadModel | DownloadModel | UnloadModel | InterruptJob | EndpointConfig | Drain
)
