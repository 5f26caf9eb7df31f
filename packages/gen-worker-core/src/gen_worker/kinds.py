"""Endpoint kinds: inference is built in, packages above publish the others as entry points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.errors import FunctionUnavailableError

if TYPE_CHECKING:
    from gen_worker.context import RequestContext
    from gen_worker.ports import Ports
    from gen_worker.spec import Call, EndpointKind, Kind, ProvidedParameter

__all__ = ["INFERENCE", "KIND_GROUP", "InferenceKind", "kind_named"]

KIND_GROUP = "gen_worker.kinds"
"""Entry-point group: name = endpoint kind, value = a `gen_worker.spec.Kind`."""

_PUBLISHERS = {
    "training": "gen-worker-trainer",
    "conversion": "gen-worker-conversion",
    "dataset": "gen-worker-conversion",
}


class InferenceKind:
    """Request and response: nothing is prepared, and the result is reported as it is."""

    name: EndpointKind = "inference"

    def context(
        self, ports: Ports, *, wanted: type[RequestContext] | None = None, **identity: Any
    ) -> RequestContext:
        from gen_worker.context import RequestContext

        return RequestContext(ports=ports, **identity)

    def provide(self, parameter: ProvidedParameter, ctx: RequestContext) -> Any:
        raise LookupError(f"an inference function is given no {parameter.name!r}")

    async def before(self, call: Call, ctx: RequestContext) -> None:
        return None

    async def finish(self, call: Call, ctx: RequestContext, result: Any) -> Any:
        return result


INFERENCE: Kind = InferenceKind()

_kinds: dict[str, Kind] = {"inference": INFERENCE}


def kind_named(name: str) -> Kind:
    """Return an endpoint kind; only kinds other than inference look at installed packages.

    Raises:
        FunctionUnavailableError: No installed package publishes it, or it cannot be imported.
    """
    if name not in _kinds:
        _kinds[name] = _published(name)
    return _kinds[name]


def _published(name: str) -> Kind:
    from importlib.metadata import entry_points

    found = {entry.value: entry for entry in entry_points(group=KIND_GROUP, name=name)}
    if not found:
        publisher = _PUBLISHERS.get(name)
        remedy = f'install "{publisher}"' if publisher else "install the package that publishes it"
        raise FunctionUnavailableError(
            f"no installed package runs functions of kind {name!r}: {remedy}",
            reason="kind_not_installed",
        )
    if len(found) > 1:
        raise FunctionUnavailableError(
            f"kind {name!r} is published more than once, by {', '.join(sorted(found))}: "
            "uninstall all but one",
            reason="kind_ambiguous",
        )
    entry = next(iter(found.values()))
    try:
        kind: Kind = entry.load()
    except (ImportError, AttributeError) as error:
        raise FunctionUnavailableError(
            f"kind {name!r} cannot be imported from {entry.value!r}: {error}",
            reason="kind_not_importable",
        ) from error
    return kind
