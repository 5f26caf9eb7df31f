"""Imports that convert on the way."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker import clone
from gen_worker.clone.executing import make_flavors
from gen_worker.clone.payload import CloneOutput
from gen_worker.clone.planning import SourceFacts, SourceIdentity, plan_clone
from gen_worker.clone.progress import CloneProgress
from gen_worker.conversion import convert as conversions
from gen_worker.conversion.inline import run_inline_conversion
from gen_worker.errors import CanceledError
from gen_worker.runtime.files import HubPublisher

if TYPE_CHECKING:
    from pathlib import Path

    from provider_sites import World

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")


PROOF = ("provenance.json", "verification.json")


def stored(tensors: dict[str, Any]) -> bytes:
    data: bytes = safetensors_torch.save(tensors, metadata={"format": "pt"})
    return data


def add_model(here: World, tensor: Any) -> None:
    here.sites.repos["some/llm"] = {
        "config.json": b'{"torch_dtype": "float32"}',
        "model.safetensors": stored({"a.weight": tensor, "steps": torch.tensor([3])}),
        "tokenizer.json": b"{}",
        "README.md": b"---\nlicense: mit\n---\n",
    }


def ask(**fields: Any) -> dict[str, Any]:
    return {"huggingface_repo": "some/llm", "destination_repo": "acme/model", **fields}


def test_two_precisions_are_published_at_once(here: World, tmp_path: Path) -> None:
    tensor = torch.linspace(-3, 3, 4096).reshape(64, 64)
    add_model(here, tensor)
    output = clone.from_huggingface(
        here.context(), ask(outputs=["bf16", "fp16"]), providers=here.providers
    )
    assert output.metadata["flavors"] == ["fp32", "bf16", "fp16"]
    assert len({one["checkpoint_id"] for one in output.metadata["checkpoints"]}) == 3
    own = here.published("acme/model:latest#fp32", tmp_path / "fp32")
    assert own == here.sites.repos["some/llm"]
    for label, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        files = here.published(f"acme/model:latest#{label}", tmp_path / label)
        assert set(files) == {*own, *PROOF}
        loaded = safetensors_torch.load(files["model.safetensors"])
        assert torch.equal(loaded["a.weight"], tensor.to(dtype))
        assert loaded["steps"].tolist() == [3]
        config = json.loads(files["config.json"])
        assert config["torch_dtype"] == str(dtype).removeprefix("torch.")
    sizes = output.metadata["size_facts"]
    assert sizes["bf16"]["full_model_bytes"] < sizes["fp32"]["full_model_bytes"]


def test_a_checkpoint_of_civitai_is_cast(here: World, tmp_path: Path) -> None:
    tensor = torch.linspace(-1, 1, 4096).reshape(64, 64)
    here.sites.add_version(5, {"model.safetensors": stored({"a.weight": tensor})})
    payload = {"civitai_model_version_id": 5, "destination_repo": "acme/model"}
    clone.from_civitai(here.context(), payload, providers=here.providers)
    files = here.published("acme/model:latest#bf16", tmp_path / "out")
    assert set(files) == {"model.safetensors", "README.md", *PROOF}
    card = files["README.md"].decode()
    assert "\nlicense_link: https://civitai.com/models/license/5\n" in card
    assert "base_model" not in card
    assert "`civitai:5`" in card
    loaded = safetensors_torch.load(files["model.safetensors"])
    assert torch.equal(loaded["a.weight"], tensor.to(torch.bfloat16))


def test_a_job_goes_on_with_what_was_made(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    add_model(here, torch.ones(64, 64))
    first = here.context(job_id="one")

    def unreachable(*args: object, **fields: object) -> None:
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr("gen_worker.clone.importing.publish", unreachable)
        with pytest.raises(ConnectionError):
            clone.from_huggingface(first, ask(), providers=here.providers)
    with monkeypatch.context() as patch:
        patch.setattr("gen_worker.conversion.convert.running.write_safetensors", unreachable)
        output = clone.from_huggingface(here.context(job_id="one"), ask(), providers=here.providers)
    assert output.metadata["flavors"] == ["fp32", "bf16"]


def test_a_flavor_is_sent_while_the_next_one_is_made(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second conversion waits until the first one's weights are at the hub."""
    add_model(here, torch.linspace(-3, 3, 4096).reshape(64, 64))
    convert, put = conversions.run_conversion, HubPublisher.put
    sent: list[str] = []
    is_there = threading.Event()

    async def noted(publisher: HubPublisher, session: object, path: str, source: Path) -> Any:
        facts = await put(publisher, session, path, source)
        sent.append(path)
        if sum(one.endswith("model.safetensors") for one in sent) == 2:
            is_there.set()  # the source's own, and that of the first conversion
        return facts

    def waiting(plan: Any, **options: Any) -> Any:
        assert plan.request.targets == ("bf16",) or is_there.wait(60)
        return convert(plan, **options)

    monkeypatch.setattr(HubPublisher, "put", noted)
    monkeypatch.setattr(conversions, "run_conversion", waiting)
    ctx = here.context()
    clone.from_huggingface(ctx, ask(outputs=["bf16", "fp16"]), providers=here.providers)
    assert len(sent) == 4 + 2 * 6, sent
    assert here.said("fp16")["metadata"]["dtype"] == "fp16"


def test_a_job_with_another_destination_opens_nothing_there(here: World) -> None:
    add_model(here, torch.ones(64, 64))
    ctx = here.context()
    ctx._extra["destination"] = {"ref": "acme/elsewhere"}
    output = clone.from_huggingface(ctx, ask(), providers=here.providers)
    assert output.metadata["flavors"] == ["fp32", "bf16"]
    assert not ctx.has_open_revisions


def facts_of(path: Path) -> SourceFacts:
    sizes = {"model.safetensors": (path / "model.safetensors").stat().st_size}
    return SourceFacts(strategy="aio_singlefile", runtime_library="x", dtype="fp32", sizes=sizes)


IDENTITY = SourceIdentity(provider="hf", ref="hf:a/b", revision="c")


def test_a_file_that_is_too_large_is_split_without_a_change(here: World, tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.randn(64, 64) for i in range(4)}
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.safetensors").write_bytes(stored(tensors))
    (source / "LICENSE").write_text("free")
    ctx = here.context()
    plan = plan_clone(
        IDENTITY,
        facts_of(source),
        [CloneOutput(dtype="fp32")],
        available=(),
        max_file_bytes=40_000,
    )
    (made,), failed = make_flavors(
        plan,
        str(source),
        str(tmp_path / "work"),
        progress=CloneProgress(ctx),
        token=ctx.cancel_token,
        max_file_bytes=40_000,
    )
    assert failed == []
    files = sorted(path.name for path in (tmp_path / "work" / "fp32").iterdir())
    assert files == [
        "LICENSE",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    loaded: dict[str, Any] = {}
    for name in files[1:3]:
        loaded |= safetensors_torch.load_file(tmp_path / "work" / "fp32" / name)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert made.size_facts["components"]["root"]["file_count"] == 4


def test_an_import_that_is_canceled_publishes_nothing(here: World) -> None:
    add_model(here, torch.ones(64, 64))
    ctx = here.context()
    ctx.cancel()
    with pytest.raises(CanceledError):
        clone.from_huggingface(ctx, ask(), providers=here.providers)
    with here.client() as client:
        assert not client.repo_exists("acme", "model")


def test_what_an_overwritten_repository_had_is_gone(here: World, tmp_path: Path) -> None:
    add_model(here, torch.ones(64, 64))
    clone.from_huggingface(here.context(), ask(), providers=here.providers)
    del here.sites.repos["some/llm"]["README.md"]
    here.sites.repos["some/llm"]["NOTICE"] = b"new"
    again = ask(overwrite_repo=True)
    clone.from_huggingface(here.context(), again, providers=here.providers)
    files = here.published("acme/model:latest#bf16", tmp_path / "out")
    own = {"config.json", "model.safetensors", "tokenizer.json", "NOTICE"}
    assert set(files) == {*own, "README.md", *PROOF}
    assert set(here.published("acme/model:latest#fp32", tmp_path / "own")) == own


def test_one_component_is_cast_by_itself(tmp_path: Path) -> None:
    tensor = torch.randn(16, 16)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "model.safetensors").write_bytes(stored({"a": tensor}))
    found = run_inline_conversion(
        source_path=tmp_path / "in",
        out_dir=tmp_path / "out",
        target_dtype="bfloat16",
        shard_prefix="diffusion_pytorch_model",
    )
    (path,) = found.output_paths
    assert path.endswith("diffusion_pytorch_model.safetensors")
    assert found.attributes == {
        "dtype": "bf16",
        "file_type": "safetensors",
        "conversion_strategy": "inline_cast",
        "tensor_count": 1,
        "converted_count": 1,
    }
    assert torch.equal(safetensors_torch.load_file(path)["a"], tensor.to(torch.bfloat16))


def test_a_quantized_flavor_is_made_on_the_way(here: World, tmp_path: Path) -> None:
    torch.manual_seed(0)
    here.sites.repos["some/llm"] = {
        "config.json": b'{"torch_dtype": "float32"}',
        "model.safetensors": stored(
            {
                "model.layers.0.mlp.up_proj.weight": torch.randn(256, 256),
                "model.layers.0.input_layernorm.weight": torch.ones(256),
            }
        ),
    }
    output = clone.from_huggingface(
        here.context(), ask(outputs=["fp8:e4m3"]), providers=here.providers
    )
    assert output.metadata["failed_flavors"] == []
    assert output.metadata["flavors"] == ["fp32", "fp8-e4m3"]
    files = here.published("acme/model:latest#fp8-e4m3", tmp_path / "out")
    loaded = safetensors_torch.load(files["model.safetensors"])
    assert loaded["model.layers.0.mlp.up_proj.weight"].dtype == torch.float8_e4m3fn
    sizes = output.metadata["size_facts"]
    assert sizes["fp8-e4m3"]["full_model_bytes"] < sizes["fp32"]["full_model_bytes"] / 2
