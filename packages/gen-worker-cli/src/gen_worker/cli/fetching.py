"""What `gen-worker prefetch` fetches, and how it tells about it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import msgspec

from gen_worker.cli.keyspaces import KeyedBinding
from gen_worker.errors import ModelResolutionError, ValidationError, WorkerError
from gen_worker.events import Emitted
from gen_worker.models import Dispatch, ModelRef, ModelRefSource
from gen_worker.models.choice import ModelChoice

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from gen_worker.cli.project import Endpoint
    from gen_worker.events import Telemetry
    from gen_worker.spec import Binding, FunctionSpec

__all__ = ["Job", "Plan", "Prefetch", "plan"]

_FAILED = 3
# Where a choice ends up does not change which files it is.
_NO_IDENTITY = ("slot_name", "key", "source")


class Job(NamedTuple):
    """One model to fetch, once however often it is declared."""

    binding: Binding
    choice: dict[str, Any]
    annotation: Any
    ref: str
    provider: str


class Plan(NamedTuple):
    jobs: tuple[Job, ...]
    notes: tuple[str, ...]
    """Declared models that are left out, and why."""


def plan(endpoint: Endpoint, *, all_variants: bool) -> Plan:
    """List every model the project declares, each (ref, options) pair once."""
    jobs: dict[bytes, Job] = {}
    notes: list[str] = []
    for spec in endpoint.functions:
        for name, parameter in spec.bindings.items():
            where = f"{spec.registered_name}: model {name!r}"
            try:
                for choice in _choices(endpoint, spec, name, all_variants=all_variants):
                    job = _job(parameter.binding, choice, parameter.annotation)
                    jobs.setdefault(_identity(job), job)
            except _LeftOutError as reason:
                notes.append(f"{where} is left out: {reason}")
            except (ValidationError, ModelResolutionError) as error:
                notes.append(f"{where} is left out: {error}")
    return Plan(tuple(jobs.values()), tuple(dict.fromkeys(notes)))


class _LeftOutError(Exception):
    """A binding that names no model by itself."""


def _choices(
    endpoint: Endpoint, spec: FunctionSpec, name: str, *, all_variants: bool
) -> Iterator[dict[str, Any]]:
    binding = spec.bindings[name].binding
    declared = binding.declared if isinstance(binding, KeyedBinding) else binding
    if not binding.is_per_call:
        yield binding.choose(name, {}, None)
    elif isinstance(declared, ModelRef) and declared.source is ModelRefSource.PAYLOAD_REF:
        raise _LeftOutError("callers choose it freely")
    elif not all_variants:
        raise _LeftOutError("the payload chooses it; --all-variants fetches every choice")
    elif isinstance(declared, Dispatch):
        for key in declared.table:
            yield binding.choose(name, {declared.field: key}, None)
    elif isinstance(declared, ModelRef) and endpoint.project is not None:
        for key in endpoint.project.models_by_function.get(spec.name, {}):
            yield binding.choose(name, {declared.key: key}, None)


def _job(binding: Binding, choice: dict[str, Any], annotation: Any) -> Job:
    declared = ModelChoice.from_record(choice)
    return Job(binding, choice, annotation, str(declared.target), declared.provider)


def _identity(job: Job) -> bytes:
    what = {key: value for key, value in job.choice.items() if key not in _NO_IDENTITY}
    return msgspec.json.encode(what, order="sorted")


class Prefetch:
    """Fetches one job after the other; the events port of its own run."""

    def __init__(self, out: BinaryIO | None) -> None:
        """Choose the form of the report.

        Args:
            out: Gets one JSON line per event; None writes sentences to stderr instead.
        """
        self._out = out
        self._local_dirs: dict[str, Any] = {}

    def emit(self, event: Telemetry) -> None:
        """Pass on what the models port tells about a download."""
        if isinstance(event, Emitted) and event.type.startswith("model_fetch."):
            self._tell(event.type, event.payload)
            if "local_dir" in event.payload:
                self._local_dirs[str(event.payload.get("ref"))] = event.payload["local_dir"]

    def run(self, endpoint: Endpoint, args: argparse.Namespace, found: Plan) -> int:
        from gen_worker.cli.host import open_ports

        ports = open_ports(endpoint, offline=args.offline, events=self)
        for note in found.notes:
            self._tell("prefetch.note", {"message": note})
        self._tell("prefetch.plan", {"count": len(found.jobs)})
        failed = 0
        for job in found.jobs:
            what = {"ref": job.ref, "provider": job.provider}
            try:
                ports.run(ports.models.prepare(job.binding, job.choice, job.annotation))
            except WorkerError as error:
                failed += 1
                self._tell("prefetch.ref.failed", {**what, "error": str(error)})
            else:
                local = self._local_dirs.get(job.ref)
                self._tell("prefetch.ref.ready", {**what, "local": local})
        self._tell("prefetch.done", {"fetched": len(found.jobs) - failed, "failed": failed})
        return _FAILED if failed else 0

    def _tell(self, kind: str, facts: Mapping[str, Any]) -> None:
        if self._out is not None:
            self._out.write(msgspec.json.encode({"kind": kind, **facts}, enc_hook=str) + b"\n")
            return
        print(f"gen-worker prefetch: {_sentence(kind, facts)}", file=sys.stderr, flush=True)


def _sentence(kind: str, facts: Mapping[str, Any]) -> str:
    match kind:
        case "prefetch.note":
            return str(facts["message"])
        case "prefetch.plan":
            return f"{facts['count']} to fetch" if facts["count"] else "nothing to fetch"
        case "prefetch.ref.ready":
            return f"{facts['ref']} ({facts['provider']}) is here: {facts['local'] or 'cached'}"
        case "prefetch.ref.failed":
            return f"{facts['ref']} ({facts['provider']}) failed: {facts['error']}"
        case "prefetch.done":
            return f"{facts['fetched']} fetched, {facts['failed']} failed"
        case _:
            return " ".join([kind, *_pairs(facts)])


def _pairs(facts: Mapping[str, Any]) -> Sequence[str]:
    return [f"{key}={value}" for key, value in facts.items()]
