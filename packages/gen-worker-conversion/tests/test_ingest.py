"""Sources fetched into a directory: what comes, what does not, and what the sites are asked."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.classify import RepoRefusal
from gen_worker.conversion.ingest import (
    Providers,
    download_civitai_model_version_files,
    download_huggingface_repo_files,
    parse_civitai_frontend_model_url,
    resolve_civitai_frontend_model_url,
    resolve_civitai_source_identity,
)
from gen_worker.conversion.ingest.inspecting import front_matter, preference_for, split_repo
from gen_worker.conversion.ingest.placing import place_files
from gen_worker.errors import ValidationError
from gen_worker.models.sources import CivitaiAccessError, CivitaiError

if TYPE_CHECKING:
    from pathlib import Path

    from provider_sites import World


def test_a_repository_becomes_a_directory(here: World, small_models: Any, tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model.fp16-00001-of-00001.safetensors"}}
    half = small_models.file({"a": ("F16", [64, 64])})
    here.sites.repos["some/llm"] = {
        "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
        "model.safetensors": small_models.file({"a": ("F32", [64, 64])}),
        "model.fp16-00001-of-00001.safetensors": half,
        "model.safetensors.index.fp16.json": json.dumps(index).encode(),
        "tokenizer.json": b"{}",
        "pytorch_model.bin": b"x" * 5000,
    }
    told: list[tuple[int, int | None]] = []
    found = download_huggingface_repo_files(
        "some/llm:main",
        tmp_path / "out",
        dtype_outputs=["fp16"],
        progress_callback=lambda done, total: told.append((done, total)),
        providers=here.providers,
    )
    files = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert sorted(files) == sorted(found["files"])
    assert set(files) == {
        "config.json",
        "tokenizer.json",
        "model.fp16-00001-of-00001.safetensors",
        "model.safetensors.index.fp16.json",
    }
    assert (found["source_revision"], found["subtype"]) == ("c" * 40, "decoder")
    assert found["attrs"]["dtype"] == "fp16"
    assert found["pickle_files_refused"] == ["pytorch_model.bin"]
    assert found["selected_bytes"] == found["total_bytes"]
    assert found["file_count"] == found["selected_count"] == 4
    assert told[-1][0] == told[-1][1]
    # Weights are the cache's own; what may be edited is a copy.
    links = {name: os.stat(path).st_nlink for name, path in files.items()}
    assert links["model.fp16-00001-of-00001.safetensors"] > 1
    assert links["config.json"] == 1
    assert stat.S_ISREG(os.lstat(files["config.json"]).st_mode)


def test_nothing_is_fetched_twice(here: World, small_models: Any, tmp_path: Path) -> None:
    here.sites.repos["some/llm"] = {
        "config.json": b"{}",
        "model.safetensors": small_models.file({"a": ("F32", [64, 64])}),
    }
    for name in ("one", "two"):
        download_huggingface_repo_files("some/llm", tmp_path / name, providers=here.providers)
    whole = [one for one in here.sites.asked_for("model.safetensors") if "0-65535" not in one.range]
    assert len({one.range for one in whole}) == len(whole)


@pytest.mark.parametrize("repo", ["https://huggingface.co/a/b", "a", "a/b/c", "../b", "a/b:", ""])
def test_only_names_of_repositories_are_taken(repo: str) -> None:
    with pytest.raises(ValidationError, match="owner/repo"):
        split_repo(repo)


def test_a_revision_is_told_twice_at_most() -> None:
    assert split_repo("a/b:refs/pr/1") == ("a/b", "refs/pr/1")
    assert split_repo("a/b:main", "v1") == ("a/b", "v1")


@pytest.mark.parametrize(
    ("outputs", "preference"),
    [
        ([], ("bf16", "fp16", "fp32")),
        (["bf16"], ("bf16", "fp32", "fp16")),
        (["f16"], ("fp16", "fp32", "bf16")),
        (["fp32", "bf16"], ("fp32", "bf16", "fp16")),
        (["bf16", "fp16"], ("fp32", "bf16", "fp16")),
        (["int8"], ("bf16", "fp16", "fp32")),
    ],
)
def test_casts_start_from_the_most_bits(outputs: list[str], preference: tuple[str, ...]) -> None:
    assert preference_for(outputs) == preference


@pytest.mark.parametrize(
    ("text", "card"),
    [
        (b"---\nlicense: mit\n---\nx", {"license": "mit"}),
        (b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
        (b"no front matter", {}),
        (b"---\n- a\n---\n", {}),
        (b"---\na: [\n---\n", {}),
        (b"---\n!!python/object:os.system {}\n---\n", {}),
    ],
)
def test_front_matter_is_read_and_never_run(text: bytes, card: dict[str, Any]) -> None:
    pytest.importorskip("yaml")
    assert front_matter(text) == card


def test_paths_do_not_leave_the_directory(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(ValueError, match="leaves"):
        place_files({"../evil": str(tmp_path / "x")}, str(tmp_path / "out"))
    assert not (tmp_path / "evil").exists()


# Civitai


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://civitai.com/models/4201", ("4201", "")),
        ("https://civitai.com/models/4201/realistic-vision?modelVersionId=130072",
         ("4201", "130072")),
        ("https://www.civitai.com/models/4201/", ("4201", "")),
    ],
)  # fmt: skip
def test_pages_of_models_are_read(url: str, expected: tuple[str, str]) -> None:
    assert parse_civitai_frontend_model_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://civitai.com/models/1",
        "https://civitai.com.evil/models/1",
        "https://user@civitai.com/models/1",
        "https://civitai.com/user/1",
        "https://civitai.com/models/0",
        "https://civitai.com/models/1?modelVersionId=x",
        "https://[civitai.com/models/1",
        "4201",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="no page"):
        parse_civitai_frontend_model_url(url)


def test_a_page_means_the_version_it_names_or_the_newest(here: World) -> None:
    here.sites.models["9"] = {"modelVersions": [{"id": 3, "index": 1}, {"id": 2, "index": 0}]}
    page = "https://civitai.com/models/9"

    def resolved(url: str, **fields: Any) -> str:
        return resolve_civitai_frontend_model_url(url, providers=here.providers, **fields)

    assert resolved(page) == "2"
    assert resolved(f"{page}?modelVersionId=3") == "3"
    assert resolved(page, explicit_model_version_id=3) == "3"
    with pytest.raises(ValidationError, match="names version 3"):
        resolved(f"{page}?modelVersionId=3", explicit_model_version_id=2)


def test_the_same_files_are_the_same_source(here: World, small_models: Any) -> None:
    data = small_models.file({"a": ("F16", [8, 8])})
    here.sites.add_version(5, {"a.safetensors": data})
    here.sites.add_version(6, {"a.safetensors": data})
    here.sites.add_version(7, {"b.safetensors": data})
    found = [
        resolve_civitai_source_identity(number, providers=here.providers).identity
        for number in (5, 6, 7)
    ]
    assert found[0] == found[1] != found[2]
    assert not here.sites.asked_for("/blob/")


def test_a_version_that_changed_meanwhile_is_refused(
    here: World, small_models: Any, tmp_path: Path
) -> None:
    here.sites.add_version(5, {"a.safetensors": small_models.file({"a": ("F16", [8, 8])})})
    known = resolve_civitai_source_identity(5, providers=here.providers)
    here.sites.add_version(5, {"a.safetensors": small_models.file({"b": ("F16", [8, 8])})})
    with pytest.raises(CivitaiError, match="resolve it again") as error:
        download_civitai_model_version_files(
            5, tmp_path, resolved_identity=known, providers=here.providers
        )
    assert error.value.code == "source_download_sha256_mismatch"


def test_refusals_of_civitai_have_codes(here: World, small_models: Any, tmp_path: Path) -> None:
    here.sites.add_version(5, {"a.ckpt": b"x"})
    codes = {}
    for version, key in ((5, ""), (404, "")):
        with pytest.raises(CivitaiError) as error:
            download_civitai_model_version_files(
                version, tmp_path, civitai_api_key=key, providers=here.providers
            )
        codes[version] = error.value.code
    assert codes == {5: "civitai_no_supported_files", 404: "civitai_not_found"}
    here.sites.token = "secret"
    with pytest.raises(CivitaiAccessError):
        resolve_civitai_source_identity(5, providers=here.providers)


# What the sites send


def add_weights(here: World, models: Any, **more: Any) -> bytes:
    data: bytes = models.file({"a": ("F16", [256, 256])})
    here.sites.add_version(5, {"a.safetensors": data}, **more)
    return data


def fetched(here: World, tmp_path: Path) -> bytes:
    download_civitai_model_version_files(5, tmp_path / "out", providers=here.providers)
    return (tmp_path / "out" / "a.safetensors").read_bytes()


def test_a_download_of_civitai_goes_on_where_it_broke_off(
    here: World, small_models: Any, tmp_path: Path
) -> None:
    data = add_weights(here, small_models)
    here.sites.cut_after = 50_000
    assert fetched(here, tmp_path) == data
    starts = [one.range for one in here.sites.asked_for("/blob/") if one.range != "bytes=0-0"]
    assert any(one.startswith("bytes=") and not one.startswith("bytes=0-") for one in starts)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_a_site_that_is_busy_is_asked_three_times(
    here: World, small_models: Any, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr("gen_worker.models.sources.civitai.catalog._PAUSE_S", 0.001)
    add_weights(here, small_models)
    here.sites.faults["model-versions"] = [status, status]
    found = resolve_civitai_source_identity(5, providers=here.providers)
    assert found.model_version_id == "5"
    assert len(here.sites.asked_for("model-versions")) == 3
    here.sites.faults["model-versions"] = [status] * 3
    with pytest.raises(CivitaiError) as error:
        resolve_civitai_source_identity(5, providers=here.providers)
    assert error.value.code == "civitai_fetch_failed"


def test_a_request_that_is_wrong_is_not_repeated(here: World, small_models: Any) -> None:
    add_weights(here, small_models)
    here.sites.faults["model-versions"] = [400, 200]
    with pytest.raises(CivitaiError):
        resolve_civitai_source_identity(5, providers=here.providers)
    assert len(here.sites.asked_for("model-versions")) == 1


@pytest.mark.parametrize(("hops", "is_followed"), [(6, True), (7, False)])
def test_six_redirects_are_followed(
    here: World, small_models: Any, tmp_path: Path, hops: int, is_followed: bool
) -> None:
    data = add_weights(here, small_models)
    (file,) = here.sites.versions["5"]["files"]
    target = file["downloadUrl"]
    for number in range(hops):
        here.sites.redirects[f"/hop/{number}"] = target
        target = f"{here.sites.url}/hop/{number}"
    file["downloadUrl"] = target
    if is_followed:
        assert fetched(here, tmp_path) == data
        return
    with pytest.raises(CivitaiError) as error:
        fetched(here, tmp_path)
    assert error.value.code == "source_download_too_many_redirects"


def test_a_key_does_not_follow_a_redirect_to_another_host(
    here: World, small_models: Any, tmp_path: Path
) -> None:
    data = add_weights(here, small_models)
    here.sites.token = "civitai_key"
    here.elsewhere.blobs["kept"] = data
    here.sites.redirects["/blob/"] = f"{here.elsewhere.url}/blob/kept"
    download_civitai_model_version_files(
        5, tmp_path / "out", civitai_api_key="civitai_key", providers=here.providers
    )
    assert (tmp_path / "out" / "a.safetensors").read_bytes() == data
    assert {one.authorization for one in here.sites.asked} == {"Bearer civitai_key"}
    assert {one.authorization for one in here.elsewhere.asked} == {""}


@pytest.mark.parametrize("name", ["CIVITAI_API_KEY", "CIVITAI_TOKEN"])
def test_the_key_of_the_environment_opens_metadata(
    here: World, small_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "civitai_env")
    monkeypatch.setenv("TENSORHUB_CAS_DIR", str(tmp_path / "cas"))
    add_weights(here, small_models)
    here.sites.token = "civitai_env"
    providers = Providers(civitai_endpoint=here.sites.url)
    assert resolve_civitai_source_identity(5, providers=providers).model_version_id == "5"


def test_other_content_than_was_told_is_refused(
    here: World, small_models: Any, tmp_path: Path
) -> None:
    data = add_weights(here, small_models)
    (file,) = here.sites.versions["5"]["files"]
    here.sites.blobs[file["downloadUrl"].rpartition("/")[2]] = bytes(len(data))
    with pytest.raises(CivitaiError) as error:
        fetched(here, tmp_path)
    assert error.value.code == "source_download_sha256_mismatch"
    add_weights(here, small_models)
    here.sites.versions["5"]["files"][0]["sizeBytes"] = len(data) + 1
    with pytest.raises(CivitaiError) as error:
        fetched(here, tmp_path)
    assert error.value.code == "source_download_size_mismatch"
    assert not (tmp_path / "out" / "a.safetensors").exists()


def test_an_endless_description_is_not_read(here: World, small_models: Any) -> None:
    add_weights(here, small_models, description="x" * (17 << 20))
    with pytest.raises(CivitaiError) as error:
        resolve_civitai_source_identity(5, providers=here.providers)
    assert error.value.code == "civitai_fetch_failed"


def test_an_endless_configuration_is_not_read(
    here: World, small_models: Any, tmp_path: Path
) -> None:
    here.sites.repos["some/llm"] = {
        "config.json": b" " * (17 << 20),
        "model.safetensors": small_models.file({"a": ("F16", [8, 8])}),
    }
    with pytest.raises(RepoRefusal, match="of JSON") as refused:
        download_huggingface_repo_files("some/llm", tmp_path, providers=here.providers)
    assert refused.value.refusal_kind == "too_large"
    assert not here.sites.asked_for("/resolve/")
