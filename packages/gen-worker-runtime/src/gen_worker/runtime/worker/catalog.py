"""The models that functions are bound to, and how each of them stands."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gen_worker.errors import ModelResolutionError, ValidationError
from gen_worker.models.choice import ModelChoice
from gen_worker.models.keyed import declared_choices
from gen_worker.spec import class_spec_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from gen_worker.runtime.worker.endpoint_config import EndpointState
    from gen_worker.spec import Binding, FunctionSpec

__all__ = ["BoundModel", "ModelBook", "RefState", "bound_models"]

_log = logging.getLogger("gen_worker.worker")

RefState = Literal["waiting", "fetching", "here", "failed", "left"]
"""`left`: for the job that needs it; nobody said what it means, or that it may be used."""


class BoundModel(NamedTuple):
    """One model that one parameter may receive."""

    function: str
    """Slug."""
    parameter: str
    binding: Binding
    annotation: Any
    choice: ModelChoice
    is_setup: bool
    """Whether `setup` receives it, rather than the function."""

    @property
    def ref(self) -> str:
        """Canonical text."""
        return str(self.choice.target)


def bound_models(functions: Iterable[FunctionSpec], state: EndpointState) -> tuple[BoundModel, ...]:
    """Return every model that functions may load unless a job brings its own."""
    found: list[BoundModel] = []
    for spec in functions:
        owner = class_spec_of(spec.owner)
        setup_names = {p.name for p in owner.setup_parameters} if owner is not None else ()
        keys = state.models_by_function.get(spec.name, {})
        for name, parameter in spec.bindings.items():
            try:
                choices = [
                    ModelChoice.from_record(record)
                    for record in declared_choices(name, parameter.binding, keys)
                ]
            except (ValidationError, ModelResolutionError) as error:
                _log.warning("model %r of %r is left to its jobs: %s", name, spec.name, error)
                continue
            found += [
                BoundModel(
                    spec.name,
                    name,
                    parameter.binding,
                    parameter.annotation,
                    choice,
                    name in setup_names,
                )
                for choice in choices
                if choice.ref
            ]
    return tuple(found)


class ModelBook:
    """Where every ref stands that somebody waits for. For the loop's thread."""

    def __init__(self, bound: Iterable[BoundModel]) -> None:
        """Wait for all of them."""
        self._states: dict[str, RefState] = {}
        self._required: tuple[str, ...] = ()
        self.bound: dict[str, list[BoundModel]] = {}
        """By ref."""
        self.rebind(bound)

    def __repr__(self) -> str:
        return f"<ModelBook {self._states}>"

    def __getitem__(self, ref: str) -> RefState:
        return self._states.get(ref, "left")

    def __setitem__(self, ref: str, state: RefState) -> None:
        self._states[ref] = state

    def rebind(self, bound: Iterable[BoundModel]) -> None:
        """Take other models in place of those before; what is known of a ref stays."""
        self.bound = {}
        for model in bound:
            self.bound.setdefault(model.ref, []).append(model)
            self._states.setdefault(model.ref, "waiting")

    def require(self, refs: Iterable[str], allowed: Iterable[str], news: Collection[str]) -> None:
        """Take what the orchestrator wants here.

        Args:
            refs: To be here whatever functions are bound to.
            allowed: What functions are bound to and may use; the rest is left to jobs.
            news: Refs of which it says something new: only these are waited for once more.
        """
        self._required = tuple(refs)
        usable = {*allowed, *self._required}
        for ref in usable.intersection(news):
            state = self._states.get(ref, "left")
            if state == "left" and (ref in self.bound or ref in self._required):
                self._states[ref] = "waiting"
        for ref, state in self._states.items():
            if ref in news and state == "failed":
                self._states[ref] = "waiting"
            elif state == "waiting" and ref not in usable:
                self._states[ref] = "left"

    def waiting(self, order: Iterable[str]) -> list[str]:
        """Return what is to be fetched: in this order, then whatever comes."""
        refs = dict.fromkeys((*order, *self._required, *self._states))
        return [ref for ref in refs if self[ref] == "waiting"]

    @property
    def is_settled(self) -> bool:
        """Whether nothing is waited for any more."""
        return not any(state in ("waiting", "fetching") for state in self._states.values())

    def loading_functions(self) -> set[str]:
        """Return the functions that wait for one of their models."""
        return {
            model.function
            for ref, models in self.bound.items()
            if self[ref] in ("waiting", "fetching")
            for model in models
        }

    def failed_functions(self) -> Mapping[str, str]:
        """Return the functions none of whose models can be had, each with one of those."""
        refs: dict[str, list[str]] = {}
        for ref, models in self.bound.items():
            for model in models:
                refs.setdefault(model.function, []).append(ref)
        return {
            function: used[0]
            for function, used in refs.items()
            if all(self[ref] == "failed" for ref in used)
        }
