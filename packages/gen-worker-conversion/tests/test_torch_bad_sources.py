"""Whatever is wrong with a source or a place: an error that names it, and everything as before."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion import Source, StreamingWriter
from gen_worker.conversion.convert import inspect_model, plan_conversion, run_conversion
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf import write_gguf
from gen_worker.conversion.gguf.diffusion import plan_diffusion_model
from gen_worker.conversion.layout import diffusers_to_singlefile, singlefile_to_diffusers
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.lora import merge_lora, open_adapter
from gen_worker.conversion.merge import merge_models
from gen_worker.conversion.streaming import (
    list_shard_files_from_index,
    materialize_safetensors_input,
    shard_safetensors_by_offset,
    streaming_dtype_cast,
    streaming_gpu_quantize,
)
from gen_worker.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

torch: Any = pytest.importorskip("torch")
pytest.importorskip("gguf")


class Place:
    """A folder with all that a conversion may look at or write to."""

    def __init__(self, root: Path, models: Any) -> None:
        self.root = root
        self.models = models
        self.model = root / "model"
        self.out = root / "new" / "out"
        self.before: dict[str, tuple[int, bytes]] = {}

    def remember(self) -> None:
        self.before = self.models.everything_below(self.root)

    def is_as_before(self) -> bool:
        return bool(self.models.everything_below(self.root) == self.before)


@pytest.fixture
def place(tmp_path: Path, bad_models: Any, monkeypatch: pytest.MonkeyPatch) -> Place:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return Place(tmp_path, bad_models)


# Sources


def weights_of(place: Place) -> Path:
    """Return what is given to those who take a file or an index."""
    index = place.model / "model.safetensors.index.json"
    files = [one for one in place.model.iterdir() if one.name.endswith((".safetensors", ".bin"))]
    return index if index.exists() else files[0] if len(files) == 1 else place.model


def planned(place: Place, *targets: str, **options: Any) -> None:
    plan = plan_conversion(place.model, targets, out=place.out, **options)
    assert plan.refusals
    run_conversion(plan)


def inspected(place: Place) -> None:
    refusals = inspect_model(place.model).refusals
    raise ConversionInputError("; ".join(refusals))


def spoilt_after_the_plan(place: Place) -> None:
    """Convert a source that was sound when its plan was made."""
    bad = place.model.rename(place.root / "bad")
    sharded = (bad / "model.safetensors.index.json").exists()
    (place.models.sharded if sharded else place.models.whole)(place.model)
    plan = plan_conversion(place.model, ["bf16"], out=place.out)
    assert not plan.refusals
    place.model.rename(place.root / "sound")
    bad.rename(place.model)
    try:
        run_conversion(plan)
    finally:
        for path in (place.root / "sound").iterdir():
            path.unlink()
        (place.root / "sound").rmdir()


def looped(place: Place) -> None:
    for component, name, tensor in Source(place.model).iter_tensors():
        StreamingWriter(place.model, place.out).write(component, name, tensor)


def packed_into_one_file(place: Place) -> None:
    pipeline = place.root / "pipeline"
    pipeline.mkdir()
    (pipeline / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    place.model.rename(pipeline / "unet")
    try:
        diffusers_to_singlefile(pipeline, place.out / "one.safetensors")
    finally:
        (pipeline / "unet").rename(place.model)
        (pipeline / "model_index.json").unlink()
        pipeline.rmdir()


def merged(place: Place) -> None:
    merge_models([(place.model, 0.5), (place.model, 0.5)], place.out)


READERS: dict[str, Callable[[Place], object]] = {
    "inspect": inspected,
    "plan": lambda place: planned(place, "bf16"),
    "plan of several": lambda place: planned(place, "fp16", "fp8"),
    "plan of gguf": lambda place: planned(place, "gguf:q8_0"),
    "run": spoilt_after_the_plan,
    "cast": lambda place: streaming_dtype_cast(weights_of(place), place.out, target_dtype="bf16"),
    "quantize": lambda place: streaming_gpu_quantize(
        weights_of(place), place.out, quantize_fn=lambda tensor: tensor, device="cpu"
    ),
    "shard": lambda place: shard_safetensors_by_offset(weights_of(place), place.out),
    "join": lambda place: materialize_safetensors_input(weights_of(place), place.out),
    "list": lambda place: list_shard_files_from_index(weights_of(place)),
    "loop": looped,
    "tensors": lambda place: Source(place.model).state_dict(),
    "gguf": lambda place: plan_diffusion_model(place.model, "q8_0", architecture="flux"),
    "unpack": lambda place: singlefile_to_diffusers(weights_of(place), place.out),
    "pack": packed_into_one_file,
    "merge": merged,
    "adapter": lambda place: open_adapter(weights_of(place)),
    "model of an adapter": lambda place: merge_lora(place.model, place.out, [(place.model, 1.0)]),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_bad_source_is_named_and_nothing_changes(
    reader: str, place: Place, bad_models: Any
) -> None:
    problems = [problem for bad in bad_models.BAD for problem in problems_of(bad, reader, place)]
    assert not problems


def problems_of(bad: Any, reader: str, place: Place) -> Iterator[str]:
    """Yield what is wrong with how a bad source is refused."""
    bad.make(place.model)
    place.remember()
    try:
        READERS[reader](place)
        yield f"{bad.spoil.__name__}: nothing was refused"
    except Exception as error:
        if not isinstance(error, WorkerError) or bad.named not in str(error):
            yield f"{bad.spoil.__name__}: {error!r}"
    if not place.is_as_before():
        yield f"{bad.spoil.__name__}: {sorted(place.models.everything_below(place.root))}"
    shutil.rmtree(place.root / "new", ignore_errors=True)
    shutil.rmtree(place.model)


# Values


def test_what_is_no_number_is_counted_by_every_writer(place: Place, bad_models: Any) -> None:
    place.model.mkdir()
    nan, inf = float("nan"), float("inf")
    bad_models.safetensors(
        place.model / "model.safetensors",
        {"a.weight": [1.0, nan] * 8, "b.weight": [inf, -inf] * 8},
    )
    wanted = {"a.weight": (256, 0), "b.weight": (0, 512)}
    source = open_checkpoint(place.model)

    plan = plan_conversion(place.model, ["bf16", "fp8:e5m2:storage"], out=place.out)
    result = run_conversion(plan)
    cast = streaming_dtype_cast(
        place.model / "model.safetensors", place.root / "cast", target_dtype="fp16"
    )
    writer = StreamingWriter(place.model, place.root / "loop")
    for component, name, tensor in Source(place.model).iter_tensors():
        writer.write(component, name, tensor)
    writer.finalize()
    packed = write_gguf(source, {"general.architecture": "x"}, place.root / "whole.gguf")
    blocks = plan_diffusion_model(place.model, "q8_0", architecture="flux").tensors

    assert result.nonfinite == {
        f"{one.flavor}/{name}": counts for one in plan.flavors for name, counts in wanted.items()
    }
    assert cast["nonfinite"] == packed.nonfinite == wanted
    assert writer.nonfinite == {("", name): counts for name, counts in wanted.items()}
    made = write_gguf(blocks, {"general.architecture": "x"}, place.root / "blocks.gguf")
    assert made.nonfinite == wanted


def test_a_tensor_without_elements_is_kept_or_named(place: Place, bad_models: Any) -> None:
    place.model.mkdir()
    empty = {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]}
    bad_models.safetensors(place.model / "model.safetensors", {"full": [1.0]}, void=empty)
    run_conversion(plan_conversion(place.model, ["bf16"], out=place.out))
    assert open_checkpoint(place.out)["void"].shape == (0, 3)
    tensors = plan_diffusion_model(place.model, "q8_0", architecture="flux").tensors
    with pytest.raises(ConversionInputError, match="'void' has no elements") as caught:
        write_gguf(tensors, {}, place.root / "new" / "x.gguf")
    assert caught.value.tensor == "void"
    assert not (place.root / "new" / "x.gguf").exists()


def test_a_dtype_that_torch_lacks_is_named_where_it_must_be_known(
    place: Place, bad_models: Any
) -> None:
    place.model.mkdir()
    odd = {"dtype": "F6_E2M3", "shape": [4, 32], "data_offsets": [128, 224]}
    path = place.model / "model.safetensors"
    bad_models.safetensors(path, {"plain": [1.0]}, odd=odd)
    path.write_bytes(path.read_bytes() + bytes(96))
    with pytest.raises(ConversionInputError, match=r"'odd'.*'F6_E2M3'") as caught:
        list(Source(place.model).iter_tensors())
    assert caught.value.tensor == "odd"
    run_conversion(plan_conversion(place.model, ["bf16"], out=place.out))
    assert open_checkpoint(place.out)["odd"].dtype == "F6_E2M3"
