"""Imports end to end: real servers for both sites, a real hub, and what it then has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker import clone
from gen_worker.conversion.classify import RepoRefusal
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.errors import (
    ArtifactTransferError,
    AuthError,
    ModelResolutionError,
    ValidationError,
)
from gen_worker.models.hub import Flavor, publish_flavors

if TYPE_CHECKING:
    from pathlib import Path

    from provider_sites import World

COMMIT = "c" * 40
CARD = b"""---
license: apache-2.0
base_model: Qwen/Qwen2.5-7B
tags: [art]
---
# Hello
"""


def pipeline(models: Any, dtype: str) -> dict[str, bytes]:
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    return {
        "model_index.json": json.dumps(index).encode(),
        "unet/config.json": b'{"_class_name": "UNet2DConditionModel"}',
        "unet/diffusion_pytorch_model.safetensors": models.file({"a.weight": (dtype, [64, 64])}),
        "unet/diffusion_pytorch_model.bin": b"\x80pickle" * 400,
        "tokenizer/vocab.json": b'{"a": 1}',
        "tokenizer_2/vocab.json": b'{"a": 1}',
        "README.md": CARD,
        "LICENSE.md": b"free",
        "teaser[1].png": b"png",
    }


def ask(**fields: Any) -> dict[str, Any]:
    return {"huggingface_repo": "some/pipe", "destination_repo": "acme/model", **fields}


def test_a_source_that_is_what_was_asked_for_keeps_every_byte(
    here: World, small_models: Any, tmp_path: Path
) -> None:
    files = pipeline(small_models, "BF16")
    here.sites.repos["some/pipe"] = files
    ctx = here.context()
    output = clone.from_huggingface(
        ctx,
        ask(outputs=[{"dtype": "bf16"}], destination_repo_tags=["prod"]),
        providers=here.providers,
    )
    assert output.metadata["flavors"] == ["bf16"]
    assert output.metadata["failed_flavors"] == []
    published = here.published("acme/model:prod#bf16", tmp_path / "out")
    dropped = {"unet/diffusion_pytorch_model.bin", "teaser[1].png"}
    assert published == {path: data for path, data in files.items() if path not in dropped}
    assert [one["repo"] for one in output.metadata["checkpoints"]] == ["acme/model"]
    assert output.weights.ref.endswith("unet/diffusion_pytorch_model.safetensors")


def test_the_destination_says_what_it_was_made_from(here: World, small_models: Any) -> None:
    here.sites.repos["some/pipe"] = pipeline(small_models, "BF16")
    output = clone.from_huggingface(here.context(), ask(), providers=here.providers)
    told = output.metadata
    assert told["license"] == "apache-2.0"
    assert (told["source_repo"], told["source_revision"]) == ("some/pipe", COMMIT)
    assert told["base_model_repo"] == "Qwen/Qwen2.5-7B"
    assert told["pickle_files_refused"] == ["unet/diffusion_pytorch_model.bin"]
    facts = told["size_facts"]["bf16"]
    assert facts["components"]["tokenizer"] == {"total_bytes": 8, "file_count": 1}
    assert facts["largest_component_bytes"] == facts["components"]["unet"]["total_bytes"]
    with here.client() as client:
        found = client.metadata("acme", "model")["metadata"]
    assert found["license"] == "apache-2.0"
    assert found["clone"]["source_revision"] == COMMIT


def test_stages_are_told_in_order(here: World, small_models: Any) -> None:
    here.sites.repos["some/pipe"] = pipeline(small_models, "BF16")
    clone.from_huggingface(here.context(), ask(), providers=here.providers)
    told = [(one["stage"], one["progress"]) for one in here.told.payloads()]
    assert told == [
        ("clone.started", 0.05),
        ("clone.source_identity_resolved", 0.15),
        ("clone.ingest.mode_selected", 0.17),
        ("clone.ingest.downloading", 0.25),
        ("clone.ingest.downloading", 0.55),
        ("clone.layout.detected", 0.58),
        ("clone.ingest.completed", 0.6),
        ("clone.save_format.completed", 0.85),
        ("clone.layout.completed", 0.95),
        ("clone.completed", 1.0),
    ]
    downloaded = here.told.payloads()[4]
    assert downloaded["bytes_done"] == downloaded["bytes_total"] > 0
    assert downloaded["bytes_per_s"] > 0


def test_the_same_import_is_not_done_twice(here: World, small_models: Any) -> None:
    here.sites.repos["some/pipe"] = pipeline(small_models, "BF16")
    first = clone.from_huggingface(here.context(), ask(), providers=here.providers)
    again = clone.from_huggingface(here.context(), ask(), providers=here.providers)
    assert again.metadata["checkpoints"] == first.metadata["checkpoints"]
    assert again.metadata["is_deduplicated"] is True
    assert here.told.stages().count("clone.dedupe.skipped") == 1
    # Another wish, another import; the hub has the bytes already.
    other = ask(destination_repo_tags=["prod"])
    output = clone.from_huggingface(here.context(), other, providers=here.providers)
    assert "is_deduplicated" not in output.metadata


def test_what_cannot_be_made_is_told_and_the_rest_is_published(
    here: World, small_models: Any, tmp_path: Path
) -> None:
    here.sites.repos["some/pipe"] = pipeline(small_models, "BF16")
    wanted = ["bf16", "int4:awq", {"dtype": "bf16", "file_type": "flashpack"}]
    output = clone.from_huggingface(here.context(), ask(outputs=wanted), providers=here.providers)
    failed = {one["spec_label"]: one for one in output.metadata["failed_flavors"]}
    assert output.metadata["failed_flavor_count"] == 2
    requirement = failed["int4-awq-safetensors"]["deferred_requirement"]
    assert (requirement["kind"], requirement["scheme"]) == ("calibrated_quantization", "int4_awq")
    assert "flashpack" in failed["bf16-flashpack"]["reason"]
    assert output.metadata["flavors"] == ["bf16"]
    assert "deferred_requirement" not in failed["bf16-flashpack"]


def test_a_job_that_makes_nothing_fails(here: World, small_models: Any) -> None:
    here.sites.repos["some/pipe"] = pipeline(small_models, "BF16")
    with pytest.raises(ConversionInputError, match="calibration"):
        clone.from_huggingface(here.context(), ask(outputs=["int4:gptq"]), providers=here.providers)


def test_a_publish_that_fails_is_a_job_that_fails(here: World, small_models: Any) -> None:
    here.sites.repos["some/pipe"] = pipeline(small_models, "BF16")
    ctx = here.context(publish="acme/other")
    with pytest.raises((AuthError, ArtifactTransferError, ValidationError)):
        clone.from_huggingface(ctx, ask(), providers=here.providers)
    with here.client() as client:
        assert not client.repo_exists("acme", "model")


def test_pickles_are_refused_before_they_are_fetched(here: World) -> None:
    here.sites.repos["some/pipe"] = {"config.json": b"{}", "pytorch_model.bin": b"x" * 9000}
    with pytest.raises(RepoRefusal) as refused:
        clone.from_huggingface(here.context(), ask(), providers=here.providers)
    assert refused.value.refusal_kind == "pickle_only"
    assert not here.sites.asked_for("pytorch_model.bin")


def test_a_token_goes_to_its_site_and_into_nothing_else(
    here: World, small_models: Any, caplog: pytest.LogCaptureFixture
) -> None:
    here.sites.repos["some/pipe"] = pipeline(small_models, "BF16")
    here.sites.token = "hf_secret"
    with pytest.raises(ModelResolutionError):
        clone.from_huggingface(here.context(), ask(), hf_token="hf_other", providers=here.providers)
    output = clone.from_huggingface(
        here.context(), ask(), hf_token="hf_secret", providers=here.providers
    )
    told = repr((output, here.told.every, caplog.records))
    assert "hf_secret" not in told
    assert "hf_other" not in told


def test_an_import_goes_on_where_its_download_broke_off(here: World, small_models: Any) -> None:
    files = pipeline(small_models, "BF16")
    files["unet/diffusion_pytorch_model.safetensors"] = small_models.file(
        {"a.weight": ("BF16", [512, 512])}
    )
    here.sites.repos["some/pipe"] = files
    here.sites.cut_after = 300_000
    output = clone.from_huggingface(here.context(), ask(), providers=here.providers)
    assert output.metadata["flavors"] == ["bf16"]
    spans = [one.range for one in here.sites.asked_for("diffusion_pytorch_model.safetensors")]
    assert any(span and not span.startswith("bytes=0-") for span in spans)


# Civitai


# What is asked for


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"destination_repo": "Acme/Model"}, "lower case"),
        ({"destination_repo": "hf:acme/model"}, "lower case"),
        ({"outputs": ["wild8"]}, "'wild8'"),
        ({"outputs": [{"dtype": "bf16", "file_layout": "round"}]}, "'round'"),
        ({"destination_repo_tags": ["latest"]}, "latest"),
        ({"source_url": "https://x"}, "source_url"),
        ({"huggingface_repo": ""}, "huggingface_repo"),
        ({"source_dtype_preference": ["best"]}, "'best'"),
    ],
)
def test_mistakes_are_told_before_anything_is_asked(
    here: World, fields: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        clone.from_huggingface(here.context(), ask(**fields), providers=here.providers)
    assert here.sites.asked == []


def test_all_mistakes_are_told_at_once(here: World) -> None:
    with pytest.raises(ValidationError) as wrong:
        clone.from_civitai(here.context(), {"civitai_file_id": "x"}, providers=here.providers)
    text = str(wrong.value)
    assert all(name in text for name in ("destination_repo", "civitai_file_id", "version_id"))


# Without an import


def test_metadata_are_read_without_fetching(here: World, small_models: Any) -> None:
    here.sites.repos["some/pipe"] = pipeline(small_models, "BF16")
    meta = clone.parse_huggingface_metadata("some/pipe", providers=here.providers)
    assert (meta.revision, meta.license, meta.tags) == (COMMIT, "apache-2.0", ["art"])
    assert (meta.base_models, meta.refusal_kind) == (["Qwen/Qwen2.5-7B"], "")
    assert meta.attributes["pipeline_class"] == "StableDiffusionXLPipeline"
    here.sites.repos["some/old"] = {"pytorch_model.bin": b"x" * 9000}
    refused = clone.parse_huggingface_metadata("some/old", providers=here.providers)
    assert refused.refusal_kind == "pickle_only"
    assert not any(one.range == "" for one in here.sites.asked_for(".safetensors"))


def test_files_are_fetched_by_globs_and_pickles_never(
    here: World, small_models: Any, tmp_path: Path
) -> None:
    here.sites.repos["some/pipe"] = pipeline(small_models, "BF16")
    found = clone.fetch_huggingface_snapshot(
        "some/pipe", None, tmp_path / "x", include=["unet/*"], exclude=["*.json"],
        providers=here.providers,
    )  # fmt: skip
    files = [path for path in (tmp_path / "x").rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["diffusion_pytorch_model.safetensors"]
    assert (found.revision, found.metadata["license"]) == (COMMIT, "apache-2.0")
    with pytest.raises(ConversionInputError, match="globs"):
        clone.fetch_huggingface_snapshot(
            "some/pipe", None, tmp_path / "y", include=["*.bin"], providers=here.providers
        )


# What goes over the network


def heavy(models: Any) -> dict[str, bytes]:
    """Return a pipeline whose weights a site keeps elsewhere, behind a redirect."""
    return pipeline(models, "BF16")


def moved(here: World, files: dict[str, bytes]) -> str:
    """Keep a repository's weights at another host; return where."""
    path = "unet/diffusion_pytorch_model.safetensors"
    here.sites.repos["some/pipe"] = files
    here.elsewhere.blobs["weights"] = files[path]
    here.sites.redirects[f"/some/pipe/resolve/{COMMIT}/{path}"] = (
        f"{here.elsewhere.url}/blob/weights"
    )
    return path


def test_a_token_goes_to_its_site_alone_and_is_told_to_nobody(
    here: World, small_models: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither to the host that a download leads to, nor to logs, events or what is published."""
    secret = "hf_verysecrettoken"
    caplog.set_level(0)
    here.sites.token = secret
    moved(here, heavy(small_models))
    output = clone.from_huggingface(
        here.context(), ask(outputs=["bf16"]), hf_token=secret, providers=here.providers
    )
    assert {one.authorization for one in here.sites.asked} == {f"Bearer {secret}"}
    assert here.elsewhere.asked_for("/blob/weights")
    assert {one.authorization for one in here.elsewhere.asked} == {""}
    published = here.published("acme/model:latest#bf16", tmp_path / "out")
    with here.client() as client:
        said = client.metadata("acme", "model")
    everything = (output, here.told.every, caplog.text, said, here.said("bf16"), published)
    assert secret not in repr(everything)


def test_a_call_s_token_counts_more_than_that_of_the_worker(
    here: World, small_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_ofthisworker")
    here.sites.token = "hf_ofthiscall"
    here.sites.repos["some/pipe"] = heavy(small_models)
    with pytest.raises(ModelResolutionError) as refused:
        clone.from_huggingface(here.context(), ask(), providers=here.providers)
    assert "hf_ofthisworker" not in str(refused.value)
    here.sites.asked.clear()
    clone.from_huggingface(
        here.context(), ask(), hf_token="hf_ofthiscall", providers=here.providers
    )
    assert {one.authorization for one in here.sites.asked} == {"Bearer hf_ofthiscall"}


def test_listed_paths_are_no_globs(here: World, small_models: Any, tmp_path: Path) -> None:
    files = {
        "config.json": b"{}",
        "model.safetensors": small_models.file({"a": ("BF16", [64, 64])}),
        "notes[1].txt": b"brackets",
        "notes*.json": b"{}",
    }
    here.sites.repos["some/pipe"] = files
    clone.from_huggingface(here.context(), ask(), providers=here.providers)
    assert here.published("acme/model:latest#bf16", tmp_path / "out") == files


def test_a_flavor_that_another_job_makes_is_told_again_and_not_tried_again(
    here: World, small_models: Any
) -> None:
    here.sites.repos["some/pipe"] = heavy(small_models)
    wanted = ask(outputs=["bf16", "int4:awq"])
    first = clone.from_huggingface(here.context(), wanted, providers=here.providers)
    again = clone.from_huggingface(here.context(), wanted, providers=here.providers)
    assert again.metadata["is_deduplicated"] is True
    assert again.metadata["failed_flavors"] == first.metadata["failed_flavors"]
    assert again.metadata["failed_flavors"][0]["deferred_requirement"]["runtime"] == "modelopt"
    skipped = next(
        one for one in here.told.payloads() if one["stage"] == "clone.save_format.skipped"
    )
    assert skipped["progress"] == 0.6
    deduplicated = [one for one in here.told.payloads() if one["stage"] == "clone.dedupe.skipped"]
    assert [one["progress"] for one in deduplicated] == [0.18]


def test_files_of_the_source_that_arrive_otherwise_are_not_published(
    here: World, small_models: Any
) -> None:
    files = heavy(small_models)
    path = moved(here, files)
    here.elsewhere.blobs["weights"] = bytes(len(files[path]))
    with pytest.raises(ArtifactTransferError):
        clone.from_huggingface(here.context(), ask(), providers=here.providers)
    with here.client() as client:
        assert not client.repo_exists("acme", "model")


@pytest.mark.parametrize("overwrites", [True, False])
def test_only_an_import_that_overwrites_removes_what_was_there(
    here: World, small_models: Any, tmp_path: Path, overwrites: bool
) -> None:
    """Whoever published it: the hub adds files to those of the latest revision otherwise."""
    before = tmp_path / "before"
    before.mkdir()
    (before / "old-00001-of-00002.safetensors").write_bytes(b"stale")
    with here.client() as client:
        publish_flavors(client, [Flavor(folder=str(before), name="bf16")], "acme/model")
    files = pipeline(small_models, "BF16")
    here.sites.repos["some/pipe"] = files
    clone.from_huggingface(here.context(), ask(overwrite_repo=overwrites), providers=here.providers)
    published = here.published("acme/model:latest#bf16", tmp_path / "out")
    assert ("old-00001-of-00002.safetensors" in published) is not overwrites
    assert "unet/diffusion_pytorch_model.safetensors" in published
