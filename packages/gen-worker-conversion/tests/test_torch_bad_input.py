"""A conversion job from source to hub, proven on the way; and what sources it refuses, how."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator  # noqa: TC003  # the decorators read it
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker import RequestContext, inference_function
from gen_worker.conversion import (
    ConversionContext,
    DestinationRepo,
    ProducedFlavor,
    Provenance,
    Source,
    SourceRepo,
    StreamingWriter,
    cast_checkpoint,
    training_function,
    verify_output,
    write_proof,
    write_safetensors,
)
from gen_worker.endpoint.classes import conversion

if TYPE_CHECKING:
    from collections.abc import Callable

    from publishing_hub import Hub, Worker

torch: Any = pytest.importorskip("torch")

SCRATCH: list[Path] = []


@training_function(kind="format-conversion")
def to_bf16(ctx: ConversionContext, source: Source) -> list[ProducedFlavor]:
    out = ctx.mktemp() / "bf16"
    SCRATCH.append(out.parent.parent)
    checkpoint = source.checkpoints()[""]
    write_safetensors(
        cast_checkpoint(checkpoint, "BF16"),
        out,
        max_shard_bytes=1000,
        on_file=lambda file: ctx.publish_early(file.path),
    )
    report = verify_output(out, source)
    provenance = Provenance.of(source_ref=source.ref, recipe={"dtype": "bf16"})
    facts = write_proof(out, provenance, report, source=source.path)
    return [ProducedFlavor(out, facts, flavor="bf16")]


def looped(source: Source, out: Path) -> Path:
    """Convert with a loop of the author's own."""
    SCRATCH.append(out.parent.parent)
    writer = StreamingWriter(source, out)
    for component, name, tensor in source.iter_tensors():
        writer.write(component, name, tensor)
    return writer.finalize()


class In(msgspec.Struct):
    source: SourceRepo
    destination: DestinationRepo


class Out(msgspec.Struct):
    ok: bool = True


@inference_function
def shape_a(ctx: RequestContext, payload: In) -> Out:
    with tempfile.TemporaryDirectory() as scratch:
        made = looped(Source(ctx.source_path or ""), Path(scratch, "job", "out"))
        for path in [made] if made.is_file() else made.iterdir():
            ctx.save_checkpoint(path.name, path, "unknown")
    ctx.publish_repo_revision(destination_repo=payload.destination.ref)
    return Out()


@training_function(kind="format-conversion")
def shape_b(ctx: ConversionContext, source: Source) -> list[ProducedFlavor]:
    return [ProducedFlavor(looped(source, ctx.mktemp() / "out"), flavor="loop")]


@conversion(sub_kind="format-conversion")
class ShapeC:
    def setup(self) -> None: ...

    @conversion.function(name="shape-c")
    def convert(self, ctx: ConversionContext, payload: In) -> Iterator[ProducedFlavor]:
        made = looped(Source(ctx.source_path or ""), ctx.mktemp() / "out")
        yield ProducedFlavor(made, flavor="loop")


@pytest.fixture(scope="module")
def hub(publishing: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with publishing.running_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def worker(publishing: Any, hub: Hub, tmp_path: Path) -> Iterator[Worker]:
    functions = (to_bf16, shape_a, shape_b, ShapeC)
    worker = publishing.Worker(tmp_path / "worker", hub, *functions)
    hub.forget()
    yield worker
    worker.close()
    assert not any(path.exists() for path in SCRATCH)
    SCRATCH.clear()


def safetensors(path: Path, tensors: dict[str, Any], **header: Any) -> None:
    """Write a file, entries of its header as given."""
    entries: dict[str, Any] = {}
    data = b""
    for name, tensor in tensors.items():
        content = tensor.numpy().tobytes()
        entries[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps({**entries, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def model(folder: Path) -> Path:
    folder.mkdir()
    torch.manual_seed(0)
    tensors = {f"layer.{number}.weight": torch.randn(16, 16) for number in range(4)}
    safetensors(folder / "model.safetensors", {**tensors, "empty": torch.zeros(0, 3)})
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def run(worker: Worker, hub: Hub, folder: Path, name: str, function: str = "to-bf16") -> Any:
    """Publish a folder as it is, as anybody may, and convert it."""
    from gen_worker.models.hub import publish_folder

    with hub.client() as client:
        publish_folder(client, folder, f"acme/{name}-source")
    return worker.run(
        function,
        {"source": {"ref": f"acme/{name}-source"}, "destination": {"ref": f"acme/{name}"}},
    )


def test_a_conversion_is_proven_and_published_with_its_proof(
    worker: Worker, hub: Hub, tmp_path: Path
) -> None:
    answer = run(worker, hub, model(tmp_path / "m"), "good")
    assert answer["published"]["ok"], answer
    paths = sorted(hub.tree("acme/good"))
    assert paths == [
        "README.md",
        *(f"model-0000{number}-of-00004.safetensors" for number in range(1, 5)),
        *("model.safetensors.index.json", "provenance.json", "verification.json"),
    ]
    proof = answer["flavors"][0]["attributes"]["verification"]
    assert proof["tensors"] == 5
    assert proof["exact_tensors"] == 1  # the one without elements
    assert proof["min_snr_db"] > 45


def truncated(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 900)


def lying_length(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 50) + path.read_bytes()[8:])


def overlapping(folder: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    safetensors(folder / "model.safetensors", {"a": torch.zeros(4)}, b=entry)


def unknown_dtype(folder: Path) -> None:
    entry = {"dtype": "Q9", "shape": [2], "data_offsets": [0, 8]}
    safetensors(folder / "model.safetensors", {}, a=entry)


def duplicate(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")


def missing_shard(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"layer.9.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def path_trick(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "../../etc/passwd"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def too_large_for_bf16(folder: Path) -> None:
    safetensors(folder / "model.safetensors", {"huge": torch.full((4, 4), 3.4028e38)})


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (truncated, "model.safetensors"),
        (lying_length, "model.safetensors"),
        (overlapping, "model.safetensors"),
        (unknown_dtype, "Q9"),
        (duplicate, "layer.0.weight"),
        (missing_shard, "model-00002-of-00002.safetensors"),
        (path_trick, "passwd"),
        (pickle_only, "pytorch_model.bin"),
        (no_weights, "has no weights"),
        (too_large_for_bf16, "tensor huge has 16 values"),
    ],
)
def test_a_bad_source_is_named_and_nothing_is_published(
    worker: Worker, hub: Hub, tmp_path: Path, spoil: Callable[[Path], None], named: str
) -> None:
    folder = model(tmp_path / "m")
    spoil(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    name = spoil.__name__.replace("_", "-")
    failure = run(worker, hub, folder, name)
    assert named in failure.message, failure
    assert failure.error_type not in ("internal", "user_exception"), failure
    assert hub.tree(f"acme/{name}") == {}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("shape", ["shape-a", "shape-b", "shape-c"])
def test_a_loop_of_any_shape_names_a_bad_source(
    worker: Worker, hub: Hub, tmp_path: Path, shape: str
) -> None:
    for number, (spoil, named) in enumerate(
        ((duplicate, "layer.0.weight"), (truncated, "model.safetensors"), (path_trick, "passwd"))
    ):
        folder = model(tmp_path / str(number))
        spoil(folder)
        name = f"{shape}-{number}"
        failure = run(worker, hub, folder, name, shape)
        assert named in failure.message, failure
        assert failure.error_type == "artifact_transfer", failure
        assert hub.tree(f"acme/{name}") == {}
    answer = run(worker, hub, model(tmp_path / "sound"), f"{shape}-sound", shape)
    assert not hasattr(answer, "error_type"), answer
    assert "model.safetensors" in hub.tree(f"acme/{shape}-sound")
