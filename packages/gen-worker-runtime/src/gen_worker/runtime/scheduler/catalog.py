"""What is known of the functions of releases: read once, as a release never changes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from gen_worker.errors import FunctionUnavailableError, UnknownFunctionError
from gen_worker.manifest import LockedFunction, LockedModel
from gen_worker.resources import Resources
from gen_worker.runtime.http.backend import ServedFunction
from gen_worker.runtime.scheduler.releases.values import DEFAULT_TAG
from gen_worker.spec import EndpointKind, OutputMode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gen_worker.manifest import Manifest
    from gen_worker.runtime.scheduler.releases.releases import Releases
    from gen_worker.runtime.scheduler.releases.values import TagTarget

    Release = tuple[str, str, str]
    """Owner, endpoint and id."""

__all__ = ["Catalog", "FunctionFacts"]

_MAX_RELEASES = 256
_KINDS: tuple[EndpointKind, ...] = get_args(EndpointKind)


class FunctionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One function of a release, as its lock has it."""

    owner: str
    """Whose endpoint."""
    endpoint: str
    release_id: str
    function: str
    """Slug."""
    kind: EndpointKind = "inference"
    output_mode: OutputMode = "single"
    timeout_ms: int | None = None
    """The author's own limit; the worker counts it from when the function begins."""
    max_batch: int | None = None
    resources: Resources = Resources()
    locked: LockedFunction
    """All that the lock says."""
    uses_hub: bool = False
    """It publishes, or reads what its payload names; an ordinary handler with those fields, too."""
    models: dict[str, LockedModel] = {}
    """Of `[models]` in the lock, by key."""
    own_models: dict[str, LockedModel] = {}
    """Of `[models.<function>]`, by key."""

    @property
    def is_streamed(self) -> bool:
        return self.output_mode == "incremental"

    @property
    def usual_name(self) -> str:
        """What it is called whatever its release: costs are learned under this name."""
        return f"{self.owner}/{self.endpoint}/{self.function}"


class Catalog:
    """The functions of all releases. On the loop."""

    def __init__(self, releases: Releases) -> None:
        """Know nothing.

        Args:
            releases: Have locks.
        """
        self._releases = releases
        self._known: dict[Release, Mapping[str, FunctionFacts]] = {}

    async def facts(
        self, owner: str, endpoint: str, release_id: str, function: str
    ) -> FunctionFacts:
        """Return what is known of a function.

        Raises:
            UnknownFunctionError: There is no such release, or it has no such function.
            FunctionUnavailableError: Its lock says something about it that cannot be understood.
        """
        functions = await self._functions((owner, endpoint, release_id))
        facts = functions.get(function)
        if facts is None:
            raise UnknownFunctionError(
                f"release {release_id} of {owner}/{endpoint} has no function {function!r}: it has "
                f"{', '.join(map(repr, functions)) or 'none'}"
            )
        return facts

    def known(
        self, owner: str, endpoint: str, release_id: str, function: str
    ) -> FunctionFacts | None:
        """Return the same at once, if something of the release was asked for before."""
        return self._known.get((owner, endpoint, release_id), {}).get(function)

    async def functions(self) -> Sequence[ServedFunction]:
        """List what callers' names mean now: each function once, by preference as `prod` has it."""
        chosen: dict[tuple[str, str, str], TagTarget] = {}
        for target in await self._releases.tags.targets():
            name = (target.owner, target.endpoint, target.function)
            if target.tag == DEFAULT_TAG or name not in chosen:
                chosen[name] = target
        found = await asyncio.gather(*(self._served(chosen[name]) for name in sorted(chosen)))
        return [served for served in found if served is not None]

    async def _served(self, target: TagTarget) -> ServedFunction | None:
        try:
            facts = await self.facts(
                target.owner, target.endpoint, target.release_id, target.function
            )
        except (UnknownFunctionError, FunctionUnavailableError):
            return None  # deleted meanwhile, or nobody could call it
        return _served(facts)

    async def _functions(self, release: Release) -> Mapping[str, FunctionFacts]:
        known = self._known.get(release)
        if known is None:
            known = _facts_of(release, await self._releases.manifest(*release))
            if len(self._known) >= _MAX_RELEASES:
                del self._known[next(iter(self._known))]
            self._known[release] = known
        return known


def _facts_of(release: Release, manifest: Manifest) -> Mapping[str, FunctionFacts]:
    owner, endpoint, release_id = release
    return {
        locked.name: FunctionFacts(
            owner=owner,
            endpoint=endpoint,
            release_id=release_id,
            function=locked.name,
            kind=_kind_of(locked),
            uses_hub=_kind_of(locked) != "inference" or _names_repository(locked.input_schema),
            output_mode=locked.output_mode,
            timeout_ms=locked.timeout_ms,
            max_batch=locked.max_batch,
            resources=_resources_of(locked),
            locked=locked,
            models=manifest.models,
            own_models=manifest.models_by_function.get(locked.name, {}),
        )
        for locked in manifest.functions
    }


def _kind_of(locked: LockedFunction) -> EndpointKind:
    named = locked.endpoint_kind or locked.kind
    return next((kind for kind in _KINDS if kind == named), "inference")


def _names_repository(schema: Mapping[str, Any]) -> bool:
    """Tell whether a payload has a `source` or a `destination` that is a record with a ref.

    Files have refs, too, and know where they are on a disk.
    """
    fields, records = schema.get("properties", {}), schema.get("$defs", {})
    if "destination_repo" in fields:
        return True
    wanted = [fields[name] for name in ("source", "destination") if name in fields]
    forms = [form for one in wanted for form in (one, *one.get("anyOf", ()))]
    names = [form["$ref"].rpartition("/")[2] for form in forms if "$ref" in form]
    tables = [records.get(name, {}).get("properties", {}) for name in names]
    return any("ref" in table and "local_path" not in table for table in tables)


def _resources_of(locked: LockedFunction) -> Resources:
    """Return what a lock says about hardware; the older dialect's words mean the same.

    Raises:
        FunctionUnavailableError: It says what cannot be.
    """
    table = locked.resources
    fields: dict[str, Any] = {
        name: table[name] for name in Resources.__struct_fields__ if name in table
    }
    capability = table.get("compute_capability")
    if isinstance(capability, dict) and "min" in capability:
        fields["min_compute_capability"] = capability["min"]
    try:
        return Resources(**fields)
    except ValueError as error:
        raise FunctionUnavailableError(
            f"the lock of {locked.name!r} cannot be understood ({error}): build it anew and "
            "publish it"
        ) from error


def _served(facts: FunctionFacts) -> ServedFunction:
    locked = facts.locked
    output = locked.delta_output_schema if facts.is_streamed else locked.output_schema
    return ServedFunction(
        name=facts.function,
        registered_name=locked.registered_name or locked.python_name or facts.function,
        python_name=locked.python_name or facts.function,
        endpoint=facts.endpoint,
        owner=facts.owner,
        kind=facts.kind,
        output_mode=facts.output_mode,
        input_schema=locked.input_schema or None,
        output_schema=output or None,
        label=locked.label or None,
        description=locked.description or None,
        timeout_ms=facts.timeout_ms,
    )
