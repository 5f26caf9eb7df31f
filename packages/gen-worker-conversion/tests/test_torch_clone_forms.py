"""Imports of real models into other forms: GGUF files, and layouts in both directions."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker import clone
from gen_worker.conversion.card import front_matter
from gen_worker.models.tiny import tiny_llama, tiny_stable_diffusion

if TYPE_CHECKING:
    from provider_sites import World

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")
transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("gguf")

COMMIT = "c" * 40
CARD = b"---\nlicense: apache-2.0\ntags: [tiny]\n---\n# Tiny\n"


def files_of(folder: Path) -> dict[str, bytes]:
    """Return a model as a repository that has a card and a licence."""
    every = (path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in every}
    return {**files, "README.md": CARD, "LICENSE": b"free"}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files_of(Path(tiny_llama(tmp_path_factory.mktemp("llama"))))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return a pipeline of tiny size and of the proportions of Stable Diffusion 1."""
    diffusers: Any = pytest.importorskip("diffusers")
    root = tmp_path_factory.mktemp("pipe")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny_stable_diffusion(root / "plain"))
    for name, options in (
        ("unet", {"block_out_channels": (32, 64), "cross_attention_dim": 64}),
        ("vae", {"block_out_channels": (32, 32)}),
    ):
        part = getattr(pipe, name)
        wider = {**part.config, **options, "norm_num_groups": 32}
        setattr(pipe, name, type(part).from_config(wider))
    clip = pipe.text_encoder.config
    clip.hidden_size, clip.num_attention_heads = 64, 1
    pipe.text_encoder = transformers.CLIPTextModel(clip)
    pipe.save_pretrained(root / "whole")
    return files_of(root / "whole")


def stored(tensors: dict[str, Any]) -> bytes:
    data: bytes = safetensors_torch.save(tensors, metadata={"format": "pt"})
    return data


def ask(**fields: Any) -> dict[str, Any]:
    return {"huggingface_repo": "some/model", "destination_repo": "acme/model", **fields}


def tensors_in(files: dict[str, bytes], path: str) -> dict[str, Any]:
    return dict(safetensors_torch.load(files[path]))


def test_gguf_files_are_made_proven_and_load(
    here: World, llama: dict[str, bytes], tmp_path: Path
) -> None:
    here.sites.repos["some/model"] = llama
    output = clone.from_huggingface(
        here.context(),
        ask(outputs=["gguf:q8_0", {"dtype": "4bit", "file_type": "gguf"}], save_formats=["f16"]),
        providers=here.providers,
    )
    told = output.metadata
    assert told["failed_flavors"] == []
    assert told["flavors"] == ["fp32", "q8_0", "q4_k_l", "fp16"]
    for flavor, name in (("q8_0", "model-Q8_0.gguf"), ("q4_k_l", "model-Q4_K_L.gguf")):
        files = here.published(f"acme/model:latest#{flavor}", tmp_path / flavor)
        proof = {"provenance.json", "verification.json"}
        assert set(files) == {name, "README.md", "LICENSE", *proof}
        assert told["size_facts"][flavor]["full_model_bytes"] == sum(map(len, files.values()))
        matter = front_matter(files["README.md"].decode())
        assert matter["license"] == "license: apache-2.0"
        assert matter["base_model"] == 'base_model: "some/model"'
        assert matter["base_model_relation"] == "base_model_relation: quantized"
        cls = transformers.AutoModelForCausalLM
        loaded = cls.from_pretrained(tmp_path / flavor, gguf_file=name)
        assert sum(one.numel() for one in loaded.parameters()) > 0
    said = here.said("q4_k_l")
    assert said["artifact"]["file_type"] == "gguf"
    assert said["artifact"]["file_layout"] == "singlefile"
    metadata = said["metadata"]
    assert metadata["quantization_method"] == "q4_k_l"
    assert metadata["provenance"]["source_ref"] == "hf:some/model"
    assert metadata["provenance"]["source_revision"] == COMMIT
    assert metadata["verification"] == told["verification"]["q4_k_l"]
    assert metadata["verification"]["tensors"] > 10
    assert metadata["verification"]["min_snr_db"] > 10
    assert (metadata["license"], metadata["source_repo"]) == ("apache-2.0", "some/model")
    (edge,) = said["lineage"]
    assert edge["relationship_kind"] == "import"
    assert (edge["parent_repo"], edge["parent_checkpoint_id"]) == (
        "external-sources/upstream",
        "hf:some/model",
    )


def test_what_was_said_of_the_source_s_files_is_in_the_provenance(
    here: World, llama: dict[str, bytes], tmp_path: Path
) -> None:
    here.sites.repos["some/model"] = llama
    clone.from_huggingface(here.context(), ask(outputs=["bf16"]), providers=here.providers)
    files = here.published("acme/model:latest#bf16", tmp_path / "bf16")
    told = json.loads(files["provenance.json"])
    assert set(told["source_files"]) == set(llama)
    assert told["source_files"]["model.safetensors"].startswith("sha256:")
    assert "model.safetensors" in told["files"]
    assert here.folder.as_posix() not in files["provenance.json"].decode()
    # What passes through is not touched: its proof is in the metadata alone.
    assert here.published("acme/model:latest#fp32", tmp_path / "own") == llama
    own = here.said("fp32")["metadata"]
    assert own["verification"] == {"is_source": True, "files": len(llama)}
    assert own["provenance"]["source_revision"] == COMMIT


def test_a_pipeline_becomes_one_file(
    here: World, pipeline: dict[str, bytes], tmp_path: Path
) -> None:
    """Of the family of Stable Diffusion 1, too; with the stages of repackaging, in order."""
    here.sites.repos["some/model"] = pipeline
    output = clone.from_huggingface(
        here.context(),
        ask(outputs=["fp16", "fp32"], save_formats=["bf16"], target_layout="singlefile"),
        providers=here.providers,
    )
    assert output.metadata["failed_flavors"] == []
    assert output.metadata["flavors"] == ["fp16-singlefile", "fp32-singlefile", "bf16-singlefile"]
    files = here.published("acme/model:latest#fp32-singlefile", tmp_path / "out")
    assert set(files) == {
        *("model.safetensors", "README.md", "LICENSE"),
        *("provenance.json", "verification.json"),
    }
    made = tensors_in(files, "model.safetensors")
    own = tensors_in(pipeline, "unet/diffusion_pytorch_model.safetensors")
    name = "model.diffusion_model.time_embed.0.weight"
    assert torch.equal(made[name], own["time_embedding.linear_1.weight"])
    told = [(one["stage"], one["progress"]) for one in here.told.payloads()]
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    repackaged = [one for one in told if one[0].startswith("clone.repackage")]
    assert repackaged[0] == ("clone.repackage.started", 0.9)
    assert repackaged[-1] == ("clone.repackage.completed", 0.94)
    assert len(repackaged) == 6


def test_one_file_becomes_a_pipeline(
    here: World, pipeline: dict[str, bytes], tmp_path: Path
) -> None:
    here.sites.repos["some/model"] = pipeline
    ctx = here.context()
    clone.from_huggingface(
        ctx, ask(outputs=["fp32"], target_layout="singlefile"), providers=here.providers
    )
    single = here.published("acme/model:latest#fp32-singlefile", tmp_path / "single")
    here.sites.repos["some/file"] = {
        "model.safetensors": single["model.safetensors"],
        "README.md": CARD,
        "LICENSE": b"free",
    }
    output = clone.from_huggingface(
        here.context(),
        ask(huggingface_repo="some/file", outputs=["fp32"], target_layout="diffusers"),
        providers=here.providers,
    )
    assert output.metadata["failed_flavors"] == []
    assert output.metadata["flavors"] == ["fp32-diffusers"]
    files = here.published("acme/model:latest#fp32-diffusers", tmp_path / "out")
    assert files["LICENSE"] == b"free"
    assert front_matter(files["README.md"].decode())["license"] == "license: apache-2.0"
    for path in (
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ):
        made, own = tensors_in(files, path), tensors_in(pipeline, path)
        # Releases of transformers save text encoders with this beginning or without.
        made = {name.removeprefix("text_model."): one for name, one in made.items()}
        own = {name.removeprefix("text_model."): one for name, one in own.items()}
        assert set(made) == set(own)
        assert all(torch.equal(made[name], own[name]) for name in made)
    verified = here.said("fp32-diffusers")["metadata"]["verification"]
    assert verified["loaded"]["unet"] == "UNet2DConditionModel"
    assert verified["max_abs"] == 0


def test_a_denoiser_becomes_a_gguf_file(
    here: World, pipeline: dict[str, bytes], tmp_path: Path
) -> None:
    """Whatever the components are that other methods would quantise."""
    here.sites.repos["some/model"] = pipeline
    output = clone.from_huggingface(
        here.context(),
        ask(outputs=["q8_0"], quantize_components=["text_encoder"]),
        providers=here.providers,
    )
    assert output.metadata["failed_flavors"] == []
    files = here.published("acme/model:latest#q8_0", tmp_path / "out")
    assert "model-unet-Q8_0.gguf" in files


def test_an_output_that_is_not_right_is_not_published(here: World) -> None:
    """The others are, and what is wrong is told."""
    weights = {"a.weight": torch.full((64, 64), 1e20)}
    here.sites.repos["some/model"] = {
        "config.json": b"{}",
        "model.safetensors": bytes(safetensors_torch.save(weights)),
    }
    output = clone.from_huggingface(
        here.context(), ask(outputs=["fp16", "bf16"]), providers=here.providers
    )
    assert output.metadata["flavors"] == ["fp32", "bf16"]
    (failed,) = output.metadata["failed_flavors"]
    assert failed["dtype"] == "fp16"
    assert "no finite numbers" in failed["reason"]
    assert tempfile.gettempdir() not in failed["reason"]
    # Another try might go better: it is not taken for done.
    again = clone.from_huggingface(
        here.context(), ask(outputs=["fp16", "bf16"]), providers=here.providers
    )
    assert "is_deduplicated" not in again.metadata


def test_adapters_and_models_in_modules_are_cast_whole(here: World, tmp_path: Path) -> None:
    """With everything beside the weights that are converted: modules of a sentence encoder, too."""
    names = {"lora_unet_a.lora_down.weight": (2, 8), "lora_unet_a.lora_up.weight": (8, 2)}
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]
    sources: dict[str, dict[str, bytes]] = {
        "some/lora": {"style.safetensors": stored({k: torch.ones(v) for k, v in names.items()})},
        "some/encoder": {
            "modules.json": json.dumps(modules).encode(),
            "config.json": b"{}",
            "model.safetensors": stored({"a": torch.ones(8, 8)}),
            "1_Pooling/config.json": b"{}",
            "2_Dense/config.json": b"{}",
            "2_Dense/model.safetensors": stored({"linear.weight": torch.ones(8, 8)}),
        },
    }
    for repo, files in sources.items():
        here.sites.repos[repo] = files
        output = clone.from_huggingface(
            here.context(),
            ask(huggingface_repo=repo, outputs=["fp16"], overwrite_repo=True),
            providers=here.providers,
        )
        assert output.metadata["failed_flavors"] == []
        made = here.published("acme/model:latest#fp16", tmp_path / repo)
        assert set(made) == {*files, "README.md", "provenance.json", "verification.json"}


def test_what_cannot_be_made_is_told_without_folders_of_this_machine(here: World) -> None:
    lora = {"lora_unet_a.lora_down.weight": torch.ones(2, 8)}
    here.sites.repos["some/model"] = {f"{name}.safetensors": stored(lora) for name in "ab"}
    output = clone.from_huggingface(here.context(), ask(outputs=["fp16"]), providers=here.providers)
    (failed,) = output.metadata["failed_flavors"]
    assert "'b.safetensors'" in failed["reason"]
    told = repr((failed, here.told.every))
    assert tempfile.gettempdir() not in told
    assert failed["reason"].count("is damaged") == 1


def test_a_source_that_nothing_loads_is_converted_all_the_same(here: World) -> None:
    here.sites.repos["some/model"] = {
        "config.json": b'{"architectures": ["BrandNewForCausalLM"], "model_type": "brand-new"}',
        "model.safetensors": bytes(safetensors_torch.save({"a.weight": torch.ones(64, 64)})),
    }
    output = clone.from_huggingface(here.context(), ask(outputs=["bf16"]), providers=here.providers)
    assert output.metadata["flavors"] == ["fp32", "bf16"]
    assert here.said("bf16")["metadata"]["verification"]["loaded"] == {"": ""}
