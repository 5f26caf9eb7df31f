"""Pipelines put together from a `SharedBase`: what they have in common is loaded once."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.models.loading import (
    LoadedComponentKey,
    LoadPlan,
    SharedComponentCache,
    build_function_owned_pipeline,
    class_named,
    is_shareable,
    load,
    plan_component,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.models.bindings import Repo
    from gen_worker.models.choice import ModelChoice
    from gen_worker.models.residency import Residency
    from gen_worker.models.shared import Variant
    from gen_worker.models.sources import LocalModel

__all__ = ["Part", "Variants", "plan_variant", "repos_of"]


class Part(NamedTuple):
    """One component of a variant, its files here."""

    name: str
    choice: ModelChoice
    model: LocalModel
    is_shared: bool

    def plan(self, device: str) -> LoadPlan:
        """Return how it is loaded."""
        # The path has the subfolder in it already.
        choice = msgspec.structs.replace(self.choice, subfolder="")
        return plan_component(self.model.path, self.name, choice=choice, device=device)

    def key(self, device: str) -> LoadedComponentKey:
        """Return what makes it the same object in two variants."""
        _, _, index = device.partition(":")
        key = LoadedComponentKey.from_binding(
            self.choice, component_set=(self.name,), device_id=int(index or 0)
        )
        return msgspec.structs.replace(key, revision=self.model.digest)


def plan_variant(pipeline_class: str, parts: tuple[Part, ...], device: str) -> LoadPlan:
    """Return what putting a variant together will load.

    Args:
        pipeline_class: Full name of its class.
        parts: Its components.
        device: Where it will run.

    Raises:
        UnknownClassError: There is no such class.
        MissingComponentsError: A repository has not the component it is given for.
    """
    components = [one for part in parts for one in part.plan(device).components]
    return LoadPlan(
        method="pipeline",
        path=parts[0].model.path,
        cls=class_named(pipeline_class),
        components=tuple(components),
        device=device,
    )


def repos_of(variant: Variant | None) -> Iterator[tuple[Mapping[str, Repo[Any]], bool]]:
    """Yield the repositories a variant is made of, by component, and whether others share them."""
    if variant is not None:
        yield variant.shared_components, is_shareable(variant)
        yield variant.variant_slots, False


class Variants:
    """The components that variants share, and who uses them. Thread-safe, blocking."""

    def __init__(self, residency: Residency) -> None:
        self._residency = residency
        self._cache = SharedComponentCache()
        self._users: dict[LoadedComponentKey, Counter[str]] = {}
        """How many pipelines of each name use a component: an old one may go after its successor
        came."""
        # Reentrant: a pipeline may be collected, and give back its parts, wherever its thread is.
        self._lock = threading.RLock()

    def build(
        self,
        name: str,
        pipeline_class: Any,
        parts: tuple[Part, ...],
        *,
        device: str,
        token: CancelToken | None,
        tell: Callable[[str, dict[str, Any]], None] | None,
    ) -> Any:
        """Put a pipeline together, on the CPU or wherever its shared components are already.

        Args:
            name: Of the pipeline in the residency.
            pipeline_class: Its class.
            parts: Its components.
            device: Where it will run.
            token: Checked between components.
            tell: Gets the events of the loads.

        Raises:
            MissingComponentsError: The class needs more components.
            Exception: What loading one raised; nothing is kept then.
        """

        def read(part: Part) -> Any:
            return load(part.plan(device), token=token, tell=tell).object

        taken: list[LoadedComponentKey] = []
        try:
            shared: dict[str, Any] = {}
            for part in parts:
                if part.is_shared:
                    key = part.key(device)
                    shared[part.name] = self._cache.acquire(key, partial(read, part))
                    taken.append(key)
                    with self._lock:
                        self._users.setdefault(key, Counter())[name] += 1
            own = {part.name: read(part) for part in parts if not part.is_shared}
            pipeline = build_function_owned_pipeline(shared, pipeline_class, **own)
        except BaseException:
            self._give_back(name, tuple(taken))
            raise
        weakref.finalize(pipeline, self._give_back, name, tuple(taken))
        return pipeline

    def companions(self, name: str) -> Mapping[str, Any]:
        """Return the loaded pipelines that share components with this one, by name."""
        with self._lock:
            families = [set(users) for users in list(self._users.values()) if name in users]
            others = {other for users in families for other in users} - {name}
        found = {other: self._residency.value(other) for other in others}
        return {other: value for other, value in found.items() if value is not None}

    def _give_back(self, name: str, keys: tuple[LoadedComponentKey, ...]) -> None:
        for key in keys:
            with self._lock:
                users = self._users.get(key, Counter())
                users[name] -= 1
                if users[name] <= 0:
                    del users[name]
                if not users:
                    self._users.pop(key, None)
            if self._cache.release(key) == 0:
                self._cache.evict(key)
