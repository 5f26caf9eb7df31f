"""Makes GGUF files of a language model or a sentence encoder."""

import os

from gen_worker import ConversionContext, DestinationRepo
from gen_worker.conversion import ProducedFlavor, Source, training_function
from gen_worker.conversion.convert import Progress, plan_conversion, run_conversion


@training_function(kind="quantization")
def to_gguf(
    ctx: ConversionContext, source: Source, destination: DestinationRepo, types: list[str]
) -> list[ProducedFlavor]:
    """Make one file of each type, such as `q8_0` or `q4_k_m`."""
    plan = plan_conversion(
        os.fspath(source.path), [f"gguf:{one}" for one in types], out=ctx.mktemp() / "out"
    )
    for flavor in plan.flavors:
        [part] = flavor.components
        stays = sum(kept.size_bytes for kept in part.kept)
        ctx.log(f"{flavor.flavor}: {part.size_bytes} bytes, {stays} of them in other types")

    def report(one: Progress) -> None:
        ctx.progress(one.done_bytes / one.total_bytes, one.flavor)

    ctx.log(f"for {destination.ref}")
    return list(run_conversion(plan, progress=report, token=ctx.cancel_token).flavors)
