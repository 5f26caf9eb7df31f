"""Casts a model: a plain request handler, a function, and a class. Take the one that fits."""

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
from gen_worker.conversion.convert import (
    plan_conversion,
    produce_flavors,
    prove_outputs,
    run_conversion,
)


class CastIn(msgspec.Struct):
    source: SourceRepo
    destination: DestinationRepo
    to: list[str]
    outputs: list[OutputSpec] = []


class Published(msgspec.Struct):
    files: list[str]


@inference_function
def cast_handler(ctx: RequestContext, payload: CastIn) -> Published:
    """Shape A: an ordinary handler, which stores and publishes by itself."""
    assert ctx.source_path is not None, "the source was fetched before"
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_conversion(ctx.source_path, payload.to[:1], out=Path(folder, "out"))
        run_conversion(plan, token=ctx.cancel_token)
        [proven] = prove_outputs(plan, token=ctx.cancel_token)
        root = Path(proven.produced.path)
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
    return produce_flavors(ctx, source, to)


@conversion(sub_kind="format-conversion")
class Cast:
    """Shape C: a class, for a conversion that has something to set up."""

    def setup(self) -> None:
        """Nothing stays loaded here."""

    @conversion.function(name="cast-class")
    def cast_class(self, ctx: ConversionContext, payload: CastIn) -> Iterator[ProducedFlavor]:
        assert ctx.source_path is not None, "the source was fetched before"
        yield from produce_flavors(ctx, ctx.source_path, payload.to)
