"""What conversions, trainings and datasets have in common: reserved payload fields, and publishing.

`JobKind` is the `Kind` that the packages of these kinds register.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from gen_worker.context.publishing import (
    checked_destination,
    checked_tags,
    checked_visibility,
    skipped,
)
from gen_worker.errors import ModelResolutionError, ValidationError
from gen_worker.file_values import file_plan
from gen_worker.ports import Destinations, Directories
from gen_worker.spec import ProvidedParameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.context.call import CallContext
    from gen_worker.context.produced import Produced
    from gen_worker.context.producers import ProducerContext
    from gen_worker.ports import Ports
    from gen_worker.spec import Call, EndpointKind
    from gen_worker.types import ProducedFlavor

__all__ = ["JobKind", "describe_job", "fetch_source"]

_LISTS = ("specs", "datasets", "outputs")
_RESERVED = ("source", "destination", *_LISTS)


def describe_job(ctx: CallContext, payload: Mapping[str, Any]) -> None:
    """Let `ctx.source`, `ctx.destination` and the hints say what the reserved fields say."""
    source, destination = _named(payload.get("source")), _named(payload.get("destination"))
    if destination is None:
        destination = _named(payload.get("destination_repo"))
    hints: dict[str, Any] = {"job_id": ctx.job_id} if ctx.job_id else {}
    if source is not None:
        ctx._extra["source"] = source
    if destination is not None:
        ctx._extra["destination"] = destination
        hints["destination_repo"] = destination.get("ref")
    ctx._hints = {**hints, **(ctx._hints or {})}


async def fetch_source(ctx: Any) -> None:
    """Bring the described source here and let `ctx.source_path` say where, if it can be had."""
    source, files = ctx.source, ctx._ports.files
    if source.get("ref") and ctx.source_path is None and isinstance(files, Directories):
        chosen = _chosen_by(source)
        path = await files.find_directory(source["ref"], request_id=ctx.request_id, **chosen)
        if path is not None:
            ctx._extra["source_path"] = path


class JobKind:
    """An endpoint kind whose functions return artifacts."""

    def __init__(self, name: EndpointKind, context_type: type[ProducerContext]) -> None:
        self.name: EndpointKind = name
        self.context_type = context_type

    def __repr__(self) -> str:
        return f"<JobKind {self.name}>"

    def context(self, ports: Ports, *, wanted: Any = None, **identity: Any) -> ProducerContext:
        """Build the context that a function is annotated with, where the kind can work with it."""
        chosen = self.context_type if wanted is None or not self._allows(wanted) else wanted
        made: ProducerContext = chosen(ports=ports, **identity)
        return made

    def _allows(self, wanted: type[ProducerContext]) -> bool:
        return not issubclass(self.context_type, wanted)

    async def before(self, call: Call, ctx: Any) -> None:
        """Read the reserved payload fields, and look where the sources are."""
        _check_calibration(call)
        _check_refs(call.raw_payload)
        _check_outputs(call.raw_payload.get("outputs"))
        describe_job(ctx, call.raw_payload)
        await self._check_destination(ctx)  # not only once the work is done
        ctx._extra["payload"] = call.raw_payload
        await fetch_source(ctx)
        await _fetch_more_sources(call, ctx)

    async def _check_destination(self, ctx: Any) -> None:
        checked_tags(ctx.destination.get("tags"))
        given = ctx.destination.get("ref")
        if given in (None, ""):
            return
        repo, publisher = checked_destination(given, "destination.ref"), ctx._ports.publisher
        if isinstance(publisher, Destinations) and not ctx._extra.get("makes_dataset"):
            await publisher.check_destination(repo, request_id=ctx.request_id)

    def provide(self, parameter: ProvidedParameter, ctx: Any) -> Any:
        """Return a reserved parameter as the type it is annotated with.

        Raises:
            ValidationError: The payload lacks it, or has something else there.
            ModelResolutionError: It names files that are not on this machine.
        """
        name, annotation = parameter.name, parameter.annotation
        value = ctx._extra.get(name)
        if value is None:
            value = ctx._extra.get("payload", {}).get(name)
        if value is None:
            return _absent(parameter)
        make = partial(_dataset, ctx) if name == "datasets" else partial(_source, ctx, name)
        try:
            provided = msgspec.convert(value, annotation, dec_hook=make)
        except msgspec.ValidationError as error:
            raise ValidationError(f"{name}: {error}", path=f"$.{name}") from error
        files = file_plan(annotation)
        if files is not None:
            files.sanitize(provided)
        return provided

    async def finish(self, call: Call, ctx: Any, result: Any) -> dict[str, Any]:
        """Store and publish what the function produced.

        Returns:
            `{"flavors": […], "destination", "published"}`, of plain JSON values.

        Raises:
            TypeError: The result is not an iterable of `ProducedFlavor`.
            ValidationError: An artifact says of itself what hubs refuse; no file of it is sent.
            ArtifactTransferError: It could not be published; nothing is swallowed.
        """
        from gen_worker.context.produced import asked_for, produced_flavors, store_flavor

        destination = str(ctx.destination.get("ref") or "")
        names: set[str] = set()
        labels: set[str] = set()
        stored = []
        outputs = call.raw_payload.get("outputs")
        for index, produced in enumerate(produced_flavors(result)):
            ctx.raise_if_canceled()
            flavor = asked_for(produced, index, outputs)
            self._check(call, flavor, labels)
            stored.append(await store_flavor(ctx, flavor, destination, self._spec(ctx), names))
        summary = {
            "flavors": [item.summary() for item in stored],
            "destination": destination,
            "published": await self._publish(call, ctx, stored, destination),
        }
        builtins: dict[str, Any] = msgspec.to_builtins(summary, str_keys=True, enc_hook=str)
        return builtins

    def _check(self, call: Call, flavor: ProducedFlavor, labels: set[str]) -> None:
        """Refuse early what the hub would refuse late; `labels` are those of other artifacts."""
        from gen_worker.context.lineage import check_quantization, relationship_of
        from gen_worker.context.produced import check_labels, label_of

        check_labels(flavor, labels)
        if relationship_of(_job_kind(call)) == "quantization":
            check_quantization(label_of(flavor), flavor.attributes)

    async def _publish(
        self, call: Call, ctx: Any, stored: list[Produced], destination: str
    ) -> dict[str, Any]:
        if not stored:
            return {"ok": True, "skipped": True, "reason": "nothing_produced"}
        if not destination:
            return {"ok": False, "skipped": True, "reason": "no_destination"}
        if ctx._revisions is None:
            return skipped(destination_repo=destination)
        try:
            return await self._commit(call, ctx, stored, destination)
        except Exception as error:
            event = (
                "dataset.publish_failed" if self.name == "dataset" else "transform.publish_failed"
            )
            ctx.emit(event, {"ref": destination, "error": type(error).__name__})
            raise

    def _spec(self, ctx: Any) -> dict[str, Any]:
        """Return what the destination's revision is opened with."""
        spec: dict[str, Any] = ctx._revision_spec
        return spec

    async def _commit(
        self, call: Call, ctx: Any, stored: list[Produced], destination: str
    ) -> dict[str, Any]:
        from gen_worker.context.lineage import parent_of, relationship_of

        job_kind = _job_kind(call)
        parent = parent_of(ctx.source, ctx.source_path)
        answer: dict[str, Any] = await ctx.apublish_repo_revision(
            destination_repo=destination,
            destination_repo_tags=ctx.destination.get("tags"),
            source_repo=parent.repo,
            source_version_id=parent.checkpoint_id,
            relationship_kind=relationship_of(job_kind),
            metadata={"checkpoint_flavors": [item.manifest(job_kind) for item in stored]},
        )
        return answer


class DatasetKind(JobKind):
    """The kind whose artifacts are datasets: one directory with a `dataset_info.json` each."""

    def _check(self, call: Call, flavor: ProducedFlavor, labels: set[str]) -> None:
        """Datasets have no flavors."""

    def _allows(self, wanted: type[ProducerContext]) -> bool:
        return issubclass(wanted, self.context_type)  # no other publishes datasets

    async def before(self, call: Call, ctx: Any) -> None:
        ctx._extra["makes_dataset"] = True
        await super().before(call, ctx)
        _visibility(ctx)  # not only once the work is done

    async def _commit(
        self, call: Call, ctx: Any, stored: list[Produced], destination: str
    ) -> dict[str, Any]:
        from gen_worker.context.produced import dataset_info

        if len(stored) != 1:
            raise ValidationError(f"a dataset job must produce one dataset, not {len(stored)}")
        info = dataset_info(stored[0].flavor)
        answer: dict[str, Any] = await ctx.apublish_dataset_revision(
            destination_dataset=destination,
            features_json=info.get("features", {}),
            kind=str(info.get("kind", "")),
            dataset_info=info,
            snapshot_manifest=stored[0].entries(),
            visibility=_visibility(ctx),
            tags=ctx.destination.get("tags"),
        )
        return answer


def _job_kind(call: Call) -> str:
    return call.spec.job_kind or call.spec.sub_kind or ""


def _visibility(ctx: Any) -> str:
    """Return who may see the dataset that a job makes; nobody else by default."""
    return checked_visibility(ctx.destination.get("visibility") or "private")


def _check_refs(payload: Mapping[str, Any]) -> None:
    for name in ("source", "destination"):
        _checked_ref(name, _named(payload.get(name)) or {})


def _check_outputs(outputs: Any) -> None:
    """Refuse attributes that no artifact may have."""
    from gen_worker.context.produced import asked_for
    from gen_worker.types import ProducedFlavor

    for index in range(len(outputs) if isinstance(outputs, list) else 0):
        asked_for(ProducedFlavor(""), index, outputs)


def _checked_ref(name: str, record: Mapping[str, Any]) -> str:
    ref = record.get("ref") or ""
    if not isinstance(ref, str):
        raise ValidationError(
            f"{name}.ref must be text such as 'owner/repo', not {ref!r:.120}",
            path=f"$.{name}.ref",
        )
    return ref


def _check_calibration(call: Call) -> None:
    """Refuse datasets for a scheme that cannot be calibrated, and none for one that must be."""
    policies, payload = call.spec.calibration or {}, call.raw_payload
    specs = payload.get("specs")
    if not policies or not isinstance(specs, list):
        return
    wrong = "unsupported" if payload.get("datasets") else "required"
    schemes = [
        name
        for spec in specs
        if isinstance(spec, dict) and not (wrong == "required" and spec.get("allow_dummy"))
        if policies.get(name := str(spec.get("scheme", "")), policies.get("*")) == wrong
    ]
    if schemes:
        remedy = (
            "cannot be calibrated: leave the datasets out"
            if wrong == "unsupported"
            else "must be calibrated: name a dataset in datasets"
        )
        raise ValidationError(f"schemes {schemes!r} {remedy}", path="$.datasets")


def _chosen_by(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a payload's record says besides its ref about which checkpoint is meant."""
    chosen: dict[str, Any] = {}
    if record.get("checkpoint_id"):
        chosen["checkpoint_id"] = str(record["checkpoint_id"])
    attributes = record.get("attributes")
    if isinstance(attributes, dict) and attributes:
        chosen["attributes"] = attributes
    return chosen


def _named(value: Any) -> dict[str, Any] | None:
    """Return the record of a repository that a payload gives whole or as its ref alone."""
    if isinstance(value, str) and value:
        return {"ref": value}
    return value if isinstance(value, dict) else None


def _absent(parameter: ProvidedParameter) -> Any:
    """Return what stands in for a parameter that the payload says nothing of.

    Raises:
        ValidationError: Nothing does.
    """
    from copy import deepcopy

    if parameter.default is not msgspec.NODEFAULT:
        return deepcopy(parameter.default)
    if parameter.name in _LISTS:
        return []
    if type(None) in get_args(parameter.annotation):
        return None
    raise ValidationError(f"the payload lacks {parameter.name!r}", path=f"$.{parameter.name}")


async def _fetch_more_sources(call: Call, ctx: Any) -> None:
    """Bring the models here that parameters besides `source` read, and remember where they are."""
    files = ctx._ports.files
    for parameter in call.spec.parameters:
        if not isinstance(parameter, ProvidedParameter) or parameter.name in _RESERVED:
            continue
        record = _named(call.raw_payload.get(parameter.name)) or {}
        ref = _checked_ref(parameter.name, record)
        if ref and isinstance(files, Directories):
            path = await files.find_directory(ref, request_id=ctx.request_id, **_chosen_by(record))
            ctx._extra.setdefault("source_paths", {})[parameter.name] = path


def _source(ctx: ProducerContext, name: str, cls: Any, value: Any) -> Any:
    """Make a `gen_worker.conversion.Source`, which reads a directory of weights."""
    record = _named(value) or {}
    ref = str(record.get("ref", ""))
    if name == "source":
        path = ctx.source_path
    else:
        path = ctx._extra.get("source_paths", {}).get(name)
    if path is None:
        raise ModelResolutionError(
            f"{name} {ref!r} is not on this machine, and was not fetched: name a model that the "
            "job's hub has, or a path; on your own machine `gen-worker hub pull` makes one",
            phase="resolve",
        )
    return cls(path, attributes=dict(record.get("attributes") or {}), ref=ref)


def _dataset(ctx: ProducerContext, cls: Any, value: Any) -> Any:
    """Make a `gen_worker.conversion.Dataset`, which reads a directory of rows."""
    record = _named(value) or {}
    ref = str(record.get("ref", ""))
    attributes = dict(record.get("attributes") or {})
    found = ctx.resolve_dataset(ref, checkpoint_id=record.get("checkpoint_id"))
    return cls(ref, record.get("split", "train"), found, attributes)
