"""The checks by which conversion is accepted, in their order; 9 and the next are in the other file.

Jobs run as on a worker and publish to a real hub; models are small ones that the libraries made.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator  # noqa: TC003  # the decorators read it
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.conversion import (
    ConversionContext,
    Dataset,
    DestinationRepo,
    ProducedFlavor,
    Source,
    SourceRepo,
    training_function,
)
from gen_worker.conversion.convert import plan_conversion, run_conversion
from gen_worker.endpoint.classes import conversion
from gen_worker.events import Failed
from gen_worker.models.hub import Clock, HubClient, publish_folder, pull_folder
from gen_worker.models.refs import TensorhubRef
from gen_worker.runtime import Engine, Invocation
from gen_worker.runtime.local import JsonLineEvents, local_ports
from gen_worker.spec import specs_of

if TYPE_CHECKING:
    from publishing_hub import Hub, Worker

torch: Any = pytest.importorskip("torch")

MIB = 1 << 20
UNET = "unet/diffusion_pytorch_model.safetensors"
CALLED: list[str] = []


def cast_unet(ctx: ConversionContext, source: Path) -> list[ProducedFlavor]:
    plan = plan_conversion(source, ["bf16"], out=ctx.mktemp() / "out", components=["unet"])
    return list(run_conversion(plan).flavors)


@training_function(kind="format-conversion")
def cast_function(ctx: ConversionContext, source: Source) -> list[ProducedFlavor]:
    return cast_unet(ctx, source.path)


class CastIn(msgspec.Struct):
    source: SourceRepo
    destination: DestinationRepo


@conversion(sub_kind="format-conversion")
class CastClass:
    def setup(self) -> None: ...

    @conversion.function(name="cast-class")
    def cast(self, ctx: ConversionContext, payload: CastIn) -> Iterator[ProducedFlavor]:
        yield from cast_unet(ctx, Path(ctx.source_path or ""))


@training_function(kind="format-conversion")
def cast_by_tensor(ctx: ConversionContext, source: Source) -> list[ProducedFlavor]:
    writer = ctx.open_output_writer()
    for component, name, tensor in source.iter_tensors():
        writer.write(component, name, tensor.bfloat16())
    return [ProducedFlavor(writer.finalize(), flavor="bf16")]


class Scheme(msgspec.Struct):
    scheme: str


@training_function(kind="quantization", calibration={"nf4": "unsupported", "*": "beneficial"})
def calibrate(
    ctx: ConversionContext, source: Source, specs: list[Scheme], datasets: list[Dataset]
) -> list[ProducedFlavor]:
    CALLED.extend(spec.scheme for spec in specs)
    return []


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, as people publish them."""
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from gen_worker.models.tiny import tiny_llama, tiny_stable_diffusion, tiny_stable_diffusion_xl

    root = tmp_path_factory.mktemp("models")
    tiny_stable_diffusion(root / "sd")
    tiny_stable_diffusion_xl(root / "sdxl")
    tiny_llama(root / "llama")
    return root


@pytest.fixture(scope="module")
def shared_hub(
    publishing: Any, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hub]:
    with publishing.running_hub(tmp_path_factory.mktemp("hub")) as hub:
        with hub.client() as client:
            for folder in models.iterdir():
                publish_folder(client, folder, f"acme/{folder.name}")
        yield hub


@pytest.fixture
def hub(shared_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub whose clients have endless patience and no time to lose."""
    without_waiting(monkeypatch)
    shared_hub.forget()
    yield shared_hub
    shared_hub.faults.clear()


def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every pause of a client be over at once, and a minute have passed with it."""
    now_s = [0.0]

    def sleep(seconds: float, token: Any) -> None:
        now_s[0] += 60 + seconds

    clock = Clock(now=lambda: now_s[0], sleep=sleep)
    monkeypatch.setitem(HubClient.__init__.__kwdefaults__ or {}, "clock", clock)


FUNCTIONS = (cast_function, CastClass, cast_by_tensor, calibrate)


@pytest.fixture
def worker(publishing: Any, hub: Hub, tmp_path: Path) -> Iterator[Worker]:
    worker = publishing.Worker(tmp_path / "worker", hub, *FUNCTIONS)
    yield worker
    worker.close()


def convert(worker: Worker, function: str, source: str, name: str, *tags: str) -> Any:
    return worker.run(
        function,
        {"source": {"ref": f"acme/{source}"}, "destination": destination(name, *tags)},
    )


def destination(name: str, *tags: str) -> dict[str, Any]:
    return {"ref": f"acme/{name}", "tags": list(tags)}


def published(hub: Hub, name: str, folder: Path, tag: str = "latest") -> dict[str, bytes]:
    """Return what a repository has, by path; it is in `folder` then."""
    with hub.client() as client:
        pull_folder(client, TensorhubRef(owner="acme", repo=name, tag=tag), folder)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_01_a_function_and_a_class_publish_the_same_cast(
    worker: Worker, hub: Hub, models: Path, tmp_path: Path
) -> None:
    loader: Any = pytest.importorskip("diffusers").StableDiffusionPipeline
    for function in ("cast-function", "cast-class"):
        answer = convert(worker, function, "sd", function)
        assert answer["published"]["ok"], answer
    assert hub.tree("acme/cast-function") == hub.tree("acme/cast-class")

    made, source = published(hub, "cast-class", tmp_path / "made"), contents(models / "sd")
    assert made.keys() == source.keys()
    changed = {path for path in source if made[path] != source[path]}
    assert changed <= {UNET, "unet/config.json"}
    before = loader.from_pretrained(models / "sd").unet.state_dict()
    pipe = loader.from_pretrained(tmp_path / "made", dtype=torch.bfloat16)
    for name, tensor in pipe.unet.state_dict().items():
        assert torch.equal(tensor, before[name].bfloat16()), name


_MEASURED = """
import sys
import torch

def peak():  # not getrusage, which counts what the process had before it became Python
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))

before = peak()
sys.path.insert(0, sys.argv[1])
from test_torch_acceptance import run_here

run_here(sys.argv[2], sys.argv[3])
print(peak() - before)
"""


def run_here(source: str, out: str) -> None:
    """Cast a model as `gen-worker run` does."""
    ports = local_ports(events=JsonLineEvents(sys.stderr), output_dir=out)
    engine = Engine(specs_of(cast_function), ports)
    payload = {"source": {"ref": source}, "destination": {"ref": "acme/large"}}
    outcome = engine.run(
        Invocation(function="cast-function", payload=msgspec.json.encode(payload), request_id="r")
    )
    engine.close_now()
    assert not isinstance(outcome, Failed), outcome


def test_02_memory_does_not_grow_with_the_model(
    tmp_path: Path, write_hollow_model: Any, models: Path
) -> None:
    """Of 12 GB in `bench/`; a model of 600 MB takes too much as well, where too much is taken."""
    source = tmp_path / "large"
    shutil.copytree(models / "sd", source, ignore=shutil.ignore_patterns("*.safetensors"))
    shapes = {"one": (1, 64 * MIB), "rows": (16384, 2048), "wide": (2, 28 * MIB)}
    write_hollow_model(source / UNET, shapes)
    command = [sys.executable, "-c", _MEASURED, str(Path(__file__).parent), str(source), "out"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout.splitlines()[-1]) <= 200 * MIB


def test_03_a_model_of_transformers_keeps_its_config_and_tokenizer(
    worker: Worker, hub: Hub, models: Path, tmp_path: Path
) -> None:
    transformers: Any = pytest.importorskip("transformers")
    answer = convert(worker, "cast-by-tensor", "llama", "llama-bf16")
    assert answer["published"]["ok"], answer
    made, source = published(hub, "llama-bf16", tmp_path / "made"), contents(models / "llama")
    assert made.keys() == source.keys()
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= made.keys()
    changed = {path for path in source if made[path] != source[path]}
    assert changed == {"config.json", "model.safetensors"}
    assert json.loads(made["config.json"])["dtype"] == "bfloat16"
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "made")(
        "once upon a time"
    ).input_ids
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype="auto")
    assert model.generate(torch.tensor([tokens]), max_new_tokens=2).shape == (1, len(tokens) + 2)


def test_04_a_hub_that_always_fails_fails_the_job_and_keeps_nothing(
    worker: Worker, hub: Hub
) -> None:
    hub.faults["finalize"] = 500
    failure = convert(worker, "cast-function", "sd", "never", "prod")
    assert failure.error_type == "artifact_transfer", failure
    assert hub.count("finalize") > 10
    assert [hub.tree("acme/never", tag) for tag in ("latest", "prod")] == [{}, {}]
    [opened] = {path.split("/")[7] for _, path in hub.asked if "/revisions/" in path}
    assert ("DELETE", f"/api/v1/repos/acme/never/revisions/{opened}") in hub.asked


def test_05_a_second_run_sends_no_byte_and_is_published(worker: Worker, hub: Hub) -> None:
    assert convert(worker, "cast-function", "sd", "twice")["published"]["ok"]
    hub.forget()
    again = convert(worker, "cast-function", "sd", "twice", "prod")
    assert again["published"]["ok"], again
    assert (hub.sent_bytes, hub.count("finalize")) == (0, 1)
    assert hub.tree("acme/twice", "prod")


def test_06_a_publication_is_waited_for_and_its_tags_come_with_it(
    publishing: Any, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_waiting(monkeypatch)
    with publishing.running_hub(tmp_path / "hub", finalizes_later=True) as hub:
        with hub.client() as client:
            publish_folder(client, models / "sd", "acme/sd")
        hub.forget()
        hub.unready_polls = 2
        worker = publishing.Worker(tmp_path / "worker", hub, *FUNCTIONS)
        try:
            answer = convert(worker, "cast-function", "sd", "slow", "prod", "v2")
        finally:
            worker.close()
        assert answer["published"]["ok"], answer
        polls = [path for method, path in hub.asked if method == "GET" and "/revisions/" in path]
        assert len(polls) >= 3
        [sent] = hub.finalized
        assert [one["tag"] for one in sent["tags"]] == ["prod", "v2"]
        assert not [path for method, path in hub.asked if method == "PUT" and "/tags" in path]
        assert hub.tree("acme/slow", "prod") == hub.tree("acme/slow", "v2") != {}


def test_07_equal_files_at_two_paths_are_both_published(
    worker: Worker, hub: Hub, models: Path, tmp_path: Path
) -> None:
    assert convert(worker, "cast-function", "sdxl", "sdxl-bf16")["published"]["ok"]
    tree = hub.tree("acme/sdxl-bf16")
    names = [path.name for path in (models / "sdxl" / "tokenizer").iterdir()]
    assert names
    for name in names:
        assert tree[f"tokenizer/{name}"] == tree[f"tokenizer_2/{name}"]
    assert published(hub, "sdxl-bf16", tmp_path / "made").keys() == contents(models / "sdxl").keys()


def test_08_data_for_a_scheme_that_takes_none_are_refused_first(worker: Worker, hub: Hub) -> None:
    payload = {"source": {"ref": "acme/llama"}, "datasets": [{"ref": "acme/none"}]}
    for schemes in (["nf4"], ["int8", "nf4"]):
        failure = worker.run("calibrate", {**payload, "specs": [{"scheme": s} for s in schemes]})
        assert failure.error_type == "validation", failure
        assert "'nf4'" in failure.message
    assert (CALLED, hub.asked) == ([], [])
    answer = worker.run("calibrate", {**payload, "datasets": [], "specs": [{"scheme": "nf4"}]})
    assert not hasattr(answer, "error_type"), answer
    assert CALLED == ["nf4"]
    CALLED.clear()
