"""Components that several pipelines use: loaded once, passed by reference, counted."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.models.loading.classes import name_of, pipeline_parts
from gen_worker.models.loading.dtypes import dtype_of_choice
from gen_worker.models.loading.errors import MissingComponentsError
from gen_worker.models.refs import identity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.models.choice import ModelChoice

__all__ = [
    "LoadedComponentKey",
    "SharedComponentCache",
    "build_function_owned_pipeline",
    "is_shareable",
]

_ID_CHARS = 48


class LoadedComponentKey(msgspec.Struct, frozen=True, kw_only=True):
    """What makes two loads the same object."""

    provider: str = "tensorhub"
    ref: str
    revision: str = ""
    dtype: str = ""
    quantization: str = ""
    quant_config_digest: str = ""
    device_id: int = 0
    placement: str = "full"
    subfolder: str = ""
    component_set: tuple[str, ...] = ()
    adapter_id: str = ""

    @classmethod
    def from_binding(cls, choice: ModelChoice, **options: Any) -> LoadedComponentKey:
        """Return the key of a choice; `options` are fields that a choice does not have."""
        return cls(
            provider=choice.provider,
            ref=identity(choice.target),
            revision=choice.revision or choice.checkpoint_id,
            dtype=dtype_of_choice(choice),
            subfolder=choice.subfolder,
            **options,
        )

    def cache_id(self) -> str:
        """Return `shared::<ref>::dev<N>::<16 hex>`; the hex covers every field."""
        readable = self.ref.replace("/", "--")[:_ID_CHARS]
        digest = hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]
        return f"shared::{readable}::dev{self.device_id}::{digest}"


def is_shareable(binding: Any) -> bool:
    """Tell whether objects of a binding may serve several functions.

    Not where callers may replace the model or put LoRAs over it, and not where the payload decides.
    """
    permissions = getattr(binding, "permissions", None)
    may_change = bool(
        getattr(permissions, "allows_lora", False) or getattr(permissions, "allows_override", False)
    )
    return not may_change and not getattr(binding, "is_per_call", False)


class _Entry:
    __slots__ = ("count", "is_pinned", "lock", "size_gb", "value")

    def __init__(self, *, pin: bool) -> None:
        self.value: Any = None
        self.count = 0
        self.size_gb = 0.0
        self.is_pinned = pin
        self.lock = threading.Lock()


class SharedComponentCache:
    """Objects by key, each loaded once and kept while it is referenced or pinned. Thread-safe."""

    def __init__(self, model_cache: Any = None) -> None:
        """Begin empty.

        Args:
            model_cache: A `ModelCache` that is told of what becomes resident here.
        """
        self._model_cache = model_cache
        self._entries: dict[LoadedComponentKey, _Entry] = {}
        # Reentrant: whoever holds an object may be collected, and give it back, in any thread.
        self._lock = threading.RLock()
        self._hits = 0
        self._misses = 0

    def acquire(
        self,
        key: LoadedComponentKey,
        loader: Callable[[], Any],
        *,
        size_gb: float = 0,
        pin: bool = False,
    ) -> Any:
        """Return the object of a key, loading it if nobody has; give it back with `release`.

        Two threads that want the same object wait for one load. A failed load leaves nothing.
        """
        with self._lock:
            entry = self._entries.setdefault(key, _Entry(pin=pin))
            entry.count += 1
            entry.is_pinned |= pin
        try:
            with entry.lock:
                is_hit = entry.value is not None
                if not is_hit:
                    entry.value = loader()
                    entry.size_gb = size_gb
                    self._mark(key, entry)
        except BaseException:
            self.release(key)
            raise
        with self._lock:
            self._hits += is_hit
            self._misses += not is_hit
        return entry.value

    def _mark(self, key: LoadedComponentKey, entry: _Entry) -> None:
        if self._model_cache is not None and entry.size_gb > 0:
            self._model_cache.mark_loaded_to_vram(
                key.cache_id(), entry.value, entry.size_gb, pinned=entry.is_pinned
            )

    def release(self, key: LoadedComponentKey) -> int:
        """Give an object back; return how often it is still referenced. Unknown keys count 0."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return 0
            entry.count = max(0, entry.count - 1)
            if entry.count == 0 and entry.value is None:
                del self._entries[key]
            return entry.count

    def refcount(self, key: LoadedComponentKey) -> int:
        entry = self._entries.get(key)
        return entry.count if entry else 0

    def get(self, key: LoadedComponentKey) -> Any:
        """Return the object without referencing it; None when it is not here."""
        entry = self._entries.get(key)
        return entry.value if entry else None

    def contains(self, key: LoadedComponentKey) -> bool:
        return self.get(key) is not None

    def evict(self, key: LoadedComponentKey, force: bool = False) -> bool:
        """Forget an object unless it is referenced or pinned; `force` forgets it all the same."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or (not force and (entry.count or entry.is_pinned)):
                return False
            del self._entries[key]
        if self._model_cache is not None:
            self._model_cache.unload_model(key.cache_id())
        return True

    def drain(self, force: bool = False) -> int:
        """Forget whatever may be forgotten; return how many that were."""
        return sum(self.evict(key, force) for key in list(self._entries))

    def shutdown(self) -> None:
        self.drain(force=True)

    @property
    def stats(self) -> dict[str, int]:
        """Counts of `hits`, `misses` and `entries`."""
        return {"hits": self._hits, "misses": self._misses, "entries": len(self._entries)}


def build_function_owned_pipeline(shared: Mapping[str, Any], cls: Any, **extra: Any) -> Any:
    """Put a pipeline together out of shared components and its own; none is copied.

    The scheduler is the exception: it keeps the state of a running call, so a shared one is made
    anew from its configuration.

    Args:
        shared: Live components by name.
        cls: Pipeline class.
        **extra: The pipeline's own components and options; they come before shared ones.

    Raises:
        MissingComponentsError: The class needs components that are neither; all are named.
    """
    parts = pipeline_parts(cls)
    given = {name: value for name, value in shared.items() if name in parts.needed | parts.others}
    if "scheduler" in given and "scheduler" not in extra:
        given["scheduler"] = _fresh(given["scheduler"])
    given |= extra
    missing = sorted(parts.needed - given.keys() - parts.nullable)
    if missing:
        raise MissingComponentsError(
            f"{name_of(cls)} cannot be put together without {', '.join(map(repr, missing))}: add "
            "them to SharedBase(...) or to .variant(...)",
            missing=missing,
        )
    given |= dict.fromkeys((parts.needed & parts.nullable) - given.keys())
    if given.get("safety_checker") is None and "requires_safety_checker" in parts.others:
        given.setdefault("requires_safety_checker", False)
    pipeline = cls(**given)
    from gen_worker.models.loading.steps import install_hooks

    install_hooks(pipeline)
    return pipeline


def _fresh(scheduler: Any) -> Any:
    make = getattr(type(scheduler), "from_config", None)
    return make(scheduler.config) if callable(make) else scheduler
