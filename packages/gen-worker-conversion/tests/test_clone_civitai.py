"""Versions of Civitai, imported end to end from a server that answers as the site does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker import clone

if TYPE_CHECKING:
    from pathlib import Path

    from provider_sites import World


def checkpoint(models: Any, dtype: str = "BF16") -> bytes:
    data: bytes = models.file({"conditioner.embedders.1.model.a": (dtype, [64, 64])})
    return data


def test_a_version_of_civitai_is_imported(here: World, small_models: Any, tmp_path: Path) -> None:
    data = checkpoint(small_models)
    here.sites.add_version(5, {"my[1] model.safetensors": data, "old.ckpt": b"x"}, air="urn:x")
    here.sites.token = "civitai_secret"
    payload = {"civitai_model_version_id": 5, "destination_repo": "acme/model"}
    output = clone.from_civitai(
        here.context(), payload, civitai_api_key="civitai_secret", providers=here.providers
    )
    # The key opens metadata, too.
    keys = {one.authorization for one in here.sites.asked}
    assert keys == {"Bearer civitai_secret"}
    told = output.metadata
    assert told["flavors"] == ["bf16"]
    assert told["pipeline_class"] == "StableDiffusionXLPipeline"
    assert told["runtime_library"] == "diffusers-single-file"
    assert (told["base_model_family"], told["lineage_source"]) == ("sdxl", "civitai_baseModel")
    assert told["source_revision"].startswith("manifest_sha256:")
    published = here.published("acme/model:latest#bf16", tmp_path / "out")
    assert published == {"my[1] model.safetensors": data}
    assert "civitai_secret" not in repr((output, here.told.every))


def test_a_model_in_components_gets_the_places_where_loaders_look(
    here: World, small_models: Any, tmp_path: Path
) -> None:
    parts = {
        name: small_models.file({f"{name}.weight": ("F16", [8, 8])})
        for name in ("unet.safetensors", "x_vae.safetensors", "michael.safetensors")
    }
    here.sites.add_version(6, parts)
    payload = {"civitai_model_version_id": "6", "destination_repo": "acme/model"}
    output = clone.from_civitai(here.context(), payload, providers=here.providers)
    published = here.published("acme/model:latest#fp16", tmp_path / "out")
    assert published == {
        "unet/diffusion_pytorch_model.safetensors": parts["unet.safetensors"],
        "vae/diffusion_pytorch_model.safetensors": parts["x_vae.safetensors"],
    }
    # No library loads it as it is: it says so, names what it lacks, and promises no pipeline.
    needs = ["model_index.json", "unet/config.json", "vae/config.json"]
    for told in (output.metadata, here.said("fp16")["metadata"]):
        assert told["runtime_library"] == "diffusers-components"
        assert told["missing_files"] == needs
    assert here.said("fp16")["pipeline_class"] == ""


def test_a_layout_that_is_not_made_is_told(here: World, small_models: Any) -> None:
    here.sites.add_version(5, {"a.safetensors": small_models.file({"a": ("BF16", [64, 64])})})
    outputs = ["bf16", {"dtype": "bf16", "file_layout": "diffusers"}]
    payload = {"civitai_model_version_id": 5, "destination_repo": "acme/model", "outputs": outputs}
    output = clone.from_civitai(here.context(), payload, providers=here.providers)
    assert output.metadata["flavors"] == ["bf16"]
    (failed,) = output.metadata["failed_flavors"]
    assert failed["spec_label"] == "bf16-diffusers-safetensors"
    assert "clone.save_format.failed" in here.told.stages()


def test_a_version_without_all_components_says_what_is_missing(
    here: World, small_models: Any
) -> None:
    parts = {
        name: small_models.file({f"{name}.weight": ("F16", [8, 8])})
        for name in ("unet.safetensors", "my_vae.safetensors", "text_encoder.safetensors")
    }
    here.sites.add_version(6, parts)
    payload = {"civitai_model_version_id": 6, "destination_repo": "acme/model"}
    output = clone.from_civitai(here.context(), payload, providers=here.providers)
    assert output.metadata["missing_components"] == ["text_encoder_2"]
    layout = next(one for one in here.told.payloads() if one["stage"] == "clone.layout.detected")
    assert (layout["source_layout"], layout["model_family_variant"]) == ("diffusers", "sdxl")


def test_what_the_site_says_is_carried_over(here: World, small_models: Any) -> None:
    lora = {
        "lora_unet_a.lora_down.weight": ("F16", [2, 8]),
        "lora_unet_a.lora_up.weight": ("F16", [8, 2]),
    }
    here.sites.add_version(
        8, {"s.safetensors": small_models.file(lora)}, name="v2", trainedWords=["my style"]
    )
    here.sites.models["77"] |= {
        "name": "A style",
        "type": "LORA",
        "allowNoCredit": False,
        "allowCommercialUse": ["Image"],
        "allowDerivatives": True,
        "allowDifferentLicense": False,
    }
    payload = {"civitai_model_version_id": 8, "destination_repo": "acme/model"}
    output = clone.from_civitai(here.context(), payload, providers=here.providers)
    told = here.said("fp16")["metadata"]
    assert (told["model_name"], told["model_version_name"]) == ("A style", "v2")
    assert told["trained_words"] == ["my style"]
    assert told["permissions"]["allowCommercialUse"] == ["Image"]
    assert told["permissions"]["allowNoCredit"] is False
    assert told["license_link"] == "https://civitai.com/models/license/8"
    assert output.metadata["runtime_library"] == "diffusers-lora"
    with here.client() as client:
        assert client.metadata("acme", "model")["metadata"]["license_link"] == told["license_link"]


def test_a_version_outlives_its_model(here: World, small_models: Any) -> None:
    here.sites.add_version(5, {"a.safetensors": checkpoint(small_models)})
    del here.sites.models["77"]
    payload = {"civitai_model_version_id": 5, "destination_repo": "acme/model"}
    output = clone.from_civitai(here.context(), payload, providers=here.providers)
    assert output.metadata["flavors"] == ["bf16"]
    assert "permissions" not in output.metadata


def test_metadata_are_read_without_fetching(here: World, small_models: Any) -> None:
    here.sites.add_version(5, {"a.safetensors": checkpoint(small_models)}, trainedWords=["style"])
    version = clone.parse_civitai_metadata(5, providers=here.providers)
    assert (version.model_id, version.family, version.trained_words) == ("77", "sdxl", ["style"])
    assert not here.sites.asked_for("/blob/")


def test_one_file_of_civitai_is_fetched(here: World, small_models: Any, tmp_path: Path) -> None:
    full, pruned = checkpoint(small_models, "F32"), checkpoint(small_models, "F16")
    here.sites.add_version(5, {"full.safetensors": full, "pruned.safetensors": pruned})
    found = clone.fetch_civitai_file(5, 501, tmp_path / "x", providers=here.providers)
    assert found.metadata["files"] == ["pruned.safetensors"]
    assert (tmp_path / "x" / "pruned.safetensors").read_bytes() == pruned
    assert clone.compute_size_facts(tmp_path / "x")["full_model_bytes"] == len(pruned)
