"""Casts a model: a plain request handler, a function, and a class. Take the one that fits."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
from gen_worker import (
    ConversionContext,
    DestinationRepo,
    OutputSpec,
    RequestContext,
    SourceRepo,
    conversion,
    inference_function,
)
from gen_worker.conversion import ProducedFlavor, Source, training_function
from gen_worker.conversion.convert import Progress, plan_conversion, run_conversion


class CastIn(msgspec.Struct):
    source: SourceRepo
    destination: DestinationRepo
    to: list[str]
    outputs: list[OutputSpec] = []


class Published(msgspec.Struct):
    files: list[str]


def cast(ctx: RequestContext, source: str, to: list[str], out: Path) -> list[ProducedFlavor]:
    """Plan, log what stays in high precision, and convert in the memory of a few slabs."""
    plan = plan_conversion(source, to, out=out)
    for flavor in plan.flavors:
        for part in flavor.components:
            for kept in part.kept:
                ctx.log(f"{flavor.flavor}: {kept.tensors} tensors stay: {kept.reason}")

    def report(one: Progress) -> None:
        ctx.progress(one.done_bytes / one.total_bytes, one.flavor)

    return list(run_conversion(plan, progress=report, token=ctx.cancel_token).flavors)


@inference_function
def cast_handler(ctx: RequestContext, payload: CastIn) -> Published:
    """Shape A: an ordinary handler, which stores and publishes by itself."""
    assert ctx.source_path is not None, "the source was fetched before"
    with tempfile.TemporaryDirectory() as folder:
        [flavor] = cast(ctx, ctx.source_path, payload.to[:1], Path(folder, "out"))
        root = Path(flavor.path)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        for path in files:
            ctx.save_checkpoint(str(path.relative_to(root)), path)
        ctx.publish_repo_revision(
            destination_repo=payload.destination.ref,
            destination_repo_tags=payload.destination.tags,
        )
        return Published([str(path.relative_to(root)) for path in files])


@training_function(kind="format-conversion")
def cast_function(
    ctx: ConversionContext, source: Source, destination: DestinationRepo, to: list[str]
) -> list[ProducedFlavor]:
    """Shape B: reserved parameters; what is returned is published."""
    ctx.log(f"for {destination.ref}")
    return cast(ctx, os.fspath(source.path), to, ctx.mktemp() / "out")


@conversion(sub_kind="format-conversion")
class Cast:
    """Shape C: a class, for a conversion that has something to set up."""

    def setup(self) -> None:
        """Nothing stays loaded here."""

    @conversion.function(name="cast-class")
    def cast_class(self, ctx: ConversionContext, payload: CastIn) -> Iterator[ProducedFlavor]:
        assert ctx.source_path is not None, "the source was fetched before"
        yield from cast(ctx, ctx.source_path, payload.to, ctx.mktemp() / "out")
