"""The functions of one engine, by every name a caller may use."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from gen_worker.errors import UnknownFunctionError
from gen_worker.runtime.engine.plan import Plan
from gen_worker.spec import class_spec_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gen_worker.runtime.engine.core import Core
    from gen_worker.runtime.engine.lifecycle import Endpoint
    from gen_worker.spec import FunctionSpec

__all__ = ["Registry"]


class Registry:
    """Looks functions up, and compiles each on its first call: a short run needs only one."""

    def __init__(self, functions: Iterable[FunctionSpec], core: Core) -> None:
        """Index the functions.

        Raises:
            ValueError: Two of them share a slug.
        """
        self._core = core
        by_slug: dict[str, FunctionSpec] = {}
        repeated: list[str] = []
        for spec in functions:
            if by_slug.setdefault(spec.name, spec) is not spec:
                repeated.append(spec.name)
        if repeated:
            raise ValueError(f"functions are named twice: {', '.join(map(repr, repeated))}")
        self.functions: Mapping[str, FunctionSpec] = MappingProxyType(by_slug)
        # A slug beats a registered name, which beats a Python name.
        self._by_name = dict(by_slug)
        for spec in by_slug.values():
            self._by_name.setdefault(spec.registered_name, spec)
        for spec in by_slug.values():
            self._by_name.setdefault(spec.python_name, spec)
        self._plans: dict[str, Plan] = {}
        self._endpoints: dict[type, Endpoint] = {}

    @property
    def endpoints(self) -> list[Endpoint]:
        """Classes that were looked at so far."""
        return list(self._endpoints.values())

    def lookup(self, name: str) -> FunctionSpec:
        """Return the function of this slug, registered name or Python name.

        Raises:
            UnknownFunctionError: There is none.
        """
        spec = self._by_name.get(name)
        if spec is None:
            known = ", ".join(self.functions) or "no functions"
            raise UnknownFunctionError(f"there is no function {name!r} here: it has {known}")
        return spec

    def plan(self, name: str) -> Plan:
        """Return how to call a function; compiled once for each name used."""
        plan = self._plans.get(name)
        if plan is None:
            spec = self.lookup(name)
            plan = self._plans.get(spec.name) or Plan(spec, self.endpoint(spec))
            # The first one stays if two threads get here at once: it holds the function's lane.
            plan = self._plans[name] = self._plans.setdefault(spec.name, plan)
        return plan

    def endpoint(self, spec: FunctionSpec) -> Endpoint | None:
        """Return the class of a function; None for a plain one."""
        definition = class_spec_of(spec.owner)
        if spec.owner is None or definition is None:
            return None
        from gen_worker.runtime.engine.lifecycle import Endpoint  # only classes need it

        known = self._endpoints.get(spec.owner)
        return known or self._endpoints.setdefault(spec.owner, Endpoint(definition, self._core))
