"""Makes GGUF files of a language model or a sentence encoder."""

from gen_worker import ConversionContext, DestinationRepo
from gen_worker.conversion import ProducedFlavor, Source, training_function
from gen_worker.conversion.convert import produce_flavors


@training_function(kind="quantization")
def to_gguf(
    ctx: ConversionContext, source: Source, destination: DestinationRepo, types: list[str]
) -> list[ProducedFlavor]:
    """Make one file of each type, such as `q8_0` or `q4_k_m`."""
    ctx.log(f"for {destination.ref}")
    return produce_flavors(ctx, source, [f"gguf:{one}" for one in types])
