"""endpoint.lock: what discovery found, as the platform and the worker read it.

A lock is one TOML table. `discovery.lock` makes it; here it is hashed, written and read back.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gen_worker.problems import Problem, ProblemsError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "IMAGE_LOCK_PATH",
    "LOCK_VERSION",
    "LockError",
    "LockedFunction",
    "LockedModel",
    "Manifest",
    "Stage",
    "TypeName",
    "content_sha256",
    "default_lock_path",
    "dump_lock",
    "load_lock",
    "manifest_of",
    "parse_lock",
    "write_lock",
]

LOCK_VERSION = 1
IMAGE_LOCK_PATH = "/app/.tensorhub/endpoint.lock"
MAX_LOCK_BYTES = 64 * 1024 * 1024

# Not part of the content: the hash itself, and what changes with every release of the SDK.
_UNHASHED = ("content_sha256", "sdk_version")


class LockError(ProblemsError):
    """An endpoint.lock is missing or wrong."""


class TypeName(msgspec.Struct, frozen=True, kw_only=True):
    module: str
    qualname: str


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    python_name: str
    name: str
    gpu_class: str = "large"


class LockedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a keyspace."""

    ref: str
    attributes: dict[str, tuple[str, ...]] = {}


class LockedFunction(msgspec.Struct, frozen=True, kw_only=True):
    """One function of a lock; what older versions do not write has a default."""

    name: str
    """Routable slug."""
    module: str
    """What the worker imports; for a class endpoint its top-level package."""
    python_name: str = ""
    registered_name: str = ""
    """Only when it differs from the Python name."""
    declared_module: str = ""
    class_name: str = ""
    archetype: str = ""
    kind: str = ""
    """Endpoint kind; of a `training_function` its job kind."""
    endpoint_kind: str = ""
    """Endpoint kind, where `kind` is a job kind."""
    sub_kind: str = ""
    runtime: str = ""
    decorator: str = ""
    case: str = ""
    label: str = ""
    description: str = ""
    resources: dict[str, Any] = {}
    bindings: dict[str, dict[str, Any]] = {}
    payload_type: TypeName | None = None
    output_type: TypeName | None = None
    delta_type: TypeName | None = None
    input_schema: dict[str, Any] = {}
    output_schema: dict[str, Any] = {}
    delta_output_schema: dict[str, Any] = {}
    payload_schema_sha256: str = ""
    output_schema_sha256: str = ""
    delta_schema_sha256: str = ""
    output_mode: Literal["single", "incremental"] = "single"
    incremental_output: bool = False
    is_async: bool = False
    moderation: dict[str, list[dict[str, str]]] = {}
    expected_outputs: tuple[dict[str, Any], ...] = ()
    timeout_ms: int | None = None
    rate_limit_per_invoker: int | None = None
    allowed_shapes: tuple[tuple[int, ...], ...] = ()
    batch_window_ms: float | None = None
    max_batch: int | None = None
    prefer_distilled: bool = False
    calibration: dict[str, str] = {}
    stages: tuple[Stage, ...] = ()
    batch_dimension: str = ""
    concurrency_mode: str = ""
    injection_json: tuple[dict[str, Any], ...] = ()
    required_models: tuple[str, ...] = ()
    payload_repo_selectors: tuple[dict[str, str], ...] = ()
    payload_refs: dict[str, dict[str, str]] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint.lock, read."""

    functions: tuple[LockedFunction, ...]
    lock_version: int = 0
    """0 for a lock from before versions were written."""
    sdk_version: str = ""
    endpoint_name: str = ""
    content_sha256: str = ""
    profiles: tuple[dict[str, Any], ...] = ()
    resources: dict[str, Any] = {}
    host_requirements: dict[str, Any] = {}
    models: dict[str, LockedModel] = {}
    models_by_function: dict[str, dict[str, LockedModel]] = {}

    @property
    def modules(self) -> tuple[str, ...]:
        """What a worker imports, each once, sorted."""
        return tuple(sorted({function.module for function in self.functions}))


def content_sha256(lock: Mapping[str, Any]) -> str:
    """Return the hex SHA-256 of a lock's content.

    Hashed is its compact JSON in UTF-8 with sorted keys, without `content_sha256` itself and
    `sdk_version`.
    """
    import hashlib

    content = {key: value for key, value in lock.items() if key not in _UNHASHED}
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def dump_lock(lock: Mapping[str, Any]) -> str:
    """Return a lock as TOML; equal locks give equal text."""
    import tomli_w

    return tomli_w.dumps(lock)


def write_lock(path: str | os.PathLike[str], lock: Mapping[str, Any]) -> None:
    """Write a lock so that readers see either the old file or the whole new one."""
    target = os.path.abspath(path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    temporary = f"{target}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(dump_lock(lock).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def default_lock_path() -> str:
    """Return where the lock is: what `GEN_WORKER_LOCK` says, else the project's or the image's."""
    from gen_worker.settings import CoreSettings, load

    own = os.path.join(".tensorhub", "endpoint.lock")
    return load(CoreSettings).lock_path or (own if os.path.isfile(own) else IMAGE_LOCK_PATH)


def parse_lock(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read an endpoint.lock as plain data.

    Raises:
        LockError: It cannot be read or is not TOML.
    """
    import tomllib

    file = os.fspath(path)
    try:
        with open(file, "rb") as stream:
            content = stream.read(MAX_LOCK_BYTES + 1)
        if len(content) > MAX_LOCK_BYTES:
            raise ValueError(f"it has more than {MAX_LOCK_BYTES} bytes")
        return tomllib.loads(content.decode())
    except FileNotFoundError:
        hint = "write it with `python -m gen_worker.discover -o endpoint.lock`"
        raise _lock_error("lock_missing", f"there is no {file!r}", file, hint) from None
    except RecursionError:
        raise _lock_error("lock_invalid", "it is nested too deeply", file) from None
    except (OSError, ValueError) as error:  # UnicodeDecodeError and TOMLDecodeError are ValueErrors
        raise _lock_error("lock_invalid", f"it cannot be read, {error}", file) from error


def load_lock(path: str | os.PathLike[str] | None = None) -> Manifest:
    """Read an endpoint.lock.

    Keys that this version does not know are ignored, so that a newer SDK may add some.

    Args:
        path: Where it is; None for `default_lock_path`.

    Raises:
        LockError: It is missing, not TOML, of a newer lock version or not a lock.
        SettingsError: `path` is None and a setting is not understood.
    """
    path = path or default_lock_path()
    return manifest_of(parse_lock(path), file=os.fspath(path))


def manifest_of(lock: Mapping[str, Any], *, file: str = "endpoint.lock") -> Manifest:
    """Return a lock's table as a `Manifest`.

    Raises:
        LockError: It is of a newer lock version, or not a lock.
    """
    version = lock.get("lock_version", 0)
    if isinstance(version, int) and version > LOCK_VERSION:
        message = f"lock_version is {version}, this gen-worker reads up to {LOCK_VERSION}"
        raise _lock_error(
            "lock_version", message, file, "upgrade gen-worker or build the lock anew"
        )
    try:
        return msgspec.convert(lock, Manifest)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        message = f"it is not an endpoint.lock, {error}"
        raise _lock_error("lock_invalid", message, file, "build it anew") from error


def _lock_error(code: str, message: str, file: str, hint: str = "") -> LockError:
    return LockError([Problem(code=code, message=message, hint=hint, file=file)])
