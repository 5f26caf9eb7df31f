"""Models of Civitai, against a server that speaks its API and a CDN of another origin."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.cancel import CancelToken
from gen_worker.errors import classify
from gen_worker.models.choice import ModelChoice
from gen_worker.models.fetch import Fetcher, RetryLimits
from gen_worker.models.formats import UnsafeFileFormat
from gen_worker.models.net import Opener
from gen_worker.models.refs import CivitaiRef
from gen_worker.models.sources import CivitaiAccessError, CivitaiError, OfflineMissError, Sources
from gen_worker.models.sources.civitai.catalog import Catalog, aliases_of
from gen_worker.models.store import ContentStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Asked, ScriptedServer


def weights(count: int = 2000) -> bytes:
    entry = {"dtype": "F16", "shape": [count], "data_offsets": [0, 2 * count]}
    header = json.dumps({"weight": entry}).encode()
    return struct.pack("<Q", len(header)) + header + os.urandom(2 * count)


class Site:
    """Answers as civitai.com does: records of models and versions, and downloads by redirect."""

    def __init__(self, site: ScriptedServer, cdn: ScriptedServer) -> None:
        self.site, self.cdn = site, cdn
        self.records: dict[str, dict[str, Any]] = {}
        self.token = ""
        site.default = self.answer

    def add(self, model: int, version: int, files: dict[str, bytes], **more: Any) -> None:
        """Publish a version; it becomes the model's newest."""
        entries = [self._entry(version, *item) for item in enumerate(files.items())]
        for entry in entries:
            entry.update(more)
        record = {"id": version, "modelId": model, "baseModel": "SDXL 1.0", "files": entries}
        self.records[f"/api/v1/model-versions/{version}"] = record
        old = self.records.get(f"/api/v1/models/{model}", {"modelVersions": []})
        listed = [{"id": version}, *old["modelVersions"]]
        self.records[f"/api/v1/models/{model}"] = {"id": model, "modelVersions": listed}

    def _entry(self, version: int, number: int, item: tuple[str, bytes]) -> dict[str, Any]:
        name, data = item
        sha = hashlib.sha256(data).hexdigest()
        self.cdn.files[f"/{sha}"] = data
        place = f"/api/download/models/{version}/{number}"
        self.site.files[place] = sha.encode()
        return {
            "id": number,
            "name": name,
            "sizeKB": round(len(data) / 1024, 1),
            "primary": number == 0,
            "hashes": {"SHA256": sha.upper()},
            "downloadUrl": self.site.url(place),
        }

    def answer(self, asked: Asked) -> None:
        is_download = asked.path.startswith("/api/download")
        if (
            is_download
            and self.token
            and asked.headers.get("authorization") != (f"Bearer {self.token}")
        ):
            asked.head(401, Content_Length=0)
        elif is_download:
            place = self.cdn.url(f"/{asked.data.decode()}?signature=secret")
            asked.head(307, Location=place, Content_Length=0)
        elif asked.path in self.records:
            data = json.dumps(self.records[asked.path]).encode()
            asked.head(200, Content_Length=len(data))
            asked.send(data)
        else:
            asked.head(404, Content_Length=0)


FILES = {"style.safetensors": weights(), "notes.txt": b"x", "old.ckpt": b"y"}


@pytest.fixture
def site(start_server: Callable[[], ScriptedServer]) -> Site:
    site = Site(start_server(), start_server())
    site.add(4201, 130072, FILES)
    return site


@pytest.fixture
def sources(site: Site, tmp_path: Path) -> Iterator[Callable[..., Sources]]:
    openers: list[Opener] = []

    def start(**options: Any) -> Sources:
        opener = Opener(trusted=[site.site.origin, site.cdn.origin])
        openers.append(opener)
        limits = RetryLimits(factor_s=0.01, cap_s=0.02, max_tries=4)
        return Sources(
            ContentStore(tmp_path / "cas", reserve_bytes=0),
            opener,
            Fetcher(opener, retries=limits, durable=False),
            civitai_endpoint=site.site.origin,
            **options,
        )

    yield start
    for opener in openers:
        opener.close()


def choice(ref: str = "4201", **fields: Any) -> ModelChoice:
    return ModelChoice(ref=ref, provider="civitai", **fields)


def test_a_model_id_is_its_newest_version_as_one_checked_file(
    site: Site, sources: Callable[..., Sources], tmp_path: Path
) -> None:
    events: list[str] = []
    model = sources().ensure(choice(), tell=lambda kind, payload: events.append(kind))
    assert model.path == str(tmp_path / "cas" / "civitai" / "130072" / "style.safetensors")
    assert Path(model.path).read_bytes() == FILES["style.safetensors"]
    assert (model.identity, model.digest) == ("civitai:4201", "130072")
    assert model.files == ("style.safetensors",)
    assert model.size_bytes == model.bytes_downloaded == len(FILES["style.safetensors"])
    assert model.attributes["base_model"] == "SDXL 1.0"
    assert model.attributes["source_revision"].startswith("manifest_sha256:")
    assert events[0] == "worker.model.download.started"
    assert events[-1] == "worker.model.download.completed"


def test_a_pinned_version_stays_and_needs_no_network_once_here(
    site: Site, sources: Callable[..., Sources]
) -> None:
    site.add(4201, 999, {"new.safetensors": weights()})
    newest = sources().ensure(choice())
    pinned = sources().ensure(choice(version_id="130072"))
    assert (newest.digest, pinned.digest) == ("999", "130072")
    before = len(site.site.asked)
    again = sources().ensure(choice("versions/130072"))
    assert (again.path, again.was_cached) == (pinned.path, True)
    assert sources(is_offline=True).ensure(choice()).digest == "999"
    assert len(site.site.asked) == before


def test_a_new_version_is_followed(site: Site, sources: Callable[..., Sources]) -> None:
    sources().ensure(choice())
    assert sources().ensure(choice()).was_cached
    site.add(4201, 999, {"new.safetensors": weights()})
    assert sources().ensure(choice()).digest == "999"


def test_offline_without_it_is_a_miss(sources: Callable[..., Sources]) -> None:
    with pytest.raises(OfflineMissError, match="'4201'"):
        sources(is_offline=True).ensure(choice())


def test_a_silent_site_leaves_the_last_known_version(
    site: Site, sources: Callable[..., Sources]
) -> None:
    sources().ensure(choice())
    site.site.close()
    assert sources().ensure(choice()).is_last_known
    with pytest.raises(CivitaiError) as error:
        sources(may_use_last_known=False).ensure(choice())
    assert (error.value.code, error.value.retryable) == ("civitai_fetch_failed", True)


def test_the_key_goes_to_civitai_and_never_to_the_cdn(
    site: Site, sources: Callable[..., Sources]
) -> None:
    site.token = "key"
    sources(civitai_token="key").ensure(choice())
    assert {one.headers.get("authorization") for one in site.site.asked} == {"Bearer key"}
    assert site.cdn.asked
    assert not any("authorization" in one.headers for one in site.cdn.asked)


@pytest.mark.parametrize(
    ("url", "is_own"),
    [
        ("https://civitai.com/api/download/models/1", True),
        ("https://www.civitai.com/x", True),
        ("https://api.civitai.com/x", True),
        ("https://image.civitai.com/x", True),
        ("http://www.civitai.com/x", False),
        ("https://evil.civitai.com.example/x", False),
        ("https://civitai.com@evil.example/x", False),
        ("https://civitai.com:444/x", False),
    ],
)
def test_only_civitais_own_hosts_are_given_the_key(url: str, is_own: bool) -> None:
    catalog = Catalog(Opener(), "https://civitai.com", "key")
    assert bool(catalog.headers(url)) == is_own


@pytest.mark.parametrize(("token", "remedy"), [("", "set CIVITAI_API_KEY"), ("no", "that may")])
def test_a_refusal_names_the_variable(
    token: str, remedy: str, site: Site, sources: Callable[..., Sources]
) -> None:
    site.token = "key"
    with pytest.raises(CivitaiAccessError, match=remedy) as error:
        sources(civitai_token=token).ensure(choice())
    failure = classify(error.value)
    assert (failure.code, failure.exit_code) == ("civitai_access_denied", 3)


def test_what_does_not_exist_says_which_id_is_meant(sources: Callable[..., Sources]) -> None:
    with pytest.raises(CivitaiError, match="'versions/<id>'") as error:
        sources().ensure(choice("77"))
    assert error.value.code == "civitai_not_found"


def test_without_safetensors_there_is_nothing_to_load(
    site: Site, sources: Callable[..., Sources]
) -> None:
    site.add(7, 70, {"model.ckpt": b"x", "model.pt": b"y"})
    with pytest.raises(CivitaiError) as error:
        sources().ensure(choice("7"))
    assert error.value.code == "civitai_no_supported_files"


def test_bytes_that_have_another_hash_are_refused(
    site: Site, sources: Callable[..., Sources], tmp_path: Path
) -> None:
    site.add(7, 70, {"m.safetensors": weights()}, hashes={"SHA256": "A" * 64})
    with pytest.raises(CivitaiError) as error:
        sources().ensure(choice("7"))
    assert error.value.code == "source_download_sha256_mismatch"
    assert not list((tmp_path / "cas" / "civitai").rglob("m.safetensors"))


def test_a_wrong_size_is_refused(site: Site, sources: Callable[..., Sources]) -> None:
    site.add(7, 70, {"m.safetensors": weights()}, sizeBytes=77)
    with pytest.raises(CivitaiError) as error:
        sources().ensure(choice("7"))
    assert error.value.code == "source_download_size_mismatch"


def test_a_download_that_only_redirects_is_given_up(
    site: Site, sources: Callable[..., Sources]
) -> None:
    def elsewhere(asked: Asked) -> None:
        asked.head(302, Location=asked.path, Content_Length=0)

    site.site.plan("/api/download/models/130072/0", *[elsewhere] * 20)
    with pytest.raises(CivitaiError) as error:
        sources().ensure(choice())
    assert error.value.code == "source_download_too_many_redirects"
    assert not error.value.retryable


@pytest.mark.parametrize("more", [{"hashes": {}}, {"downloadUrl": "https://evil.example/x"}])
def test_what_cannot_be_checked_is_not_fetched(
    more: dict[str, Any], site: Site, sources: Callable[..., Sources]
) -> None:
    site.add(7, 70, {"m.safetensors": weights()}, **more)
    with pytest.raises(CivitaiError, match="cannot be checked"):
        sources().ensure(choice("7"))


def test_another_format_under_a_safe_name_is_refused(
    site: Site, sources: Callable[..., Sources]
) -> None:
    site.add(7, 70, {"m.safetensors": b"\x80\x04\x95" + b"pickle" * 100})
    with pytest.raises(UnsafeFileFormat):
        sources().ensure(choice("7"))
    assert sources().find(choice("7")) is None


def test_names_never_leave_the_folder_and_never_meet(
    site: Site, sources: Callable[..., Sources], tmp_path: Path
) -> None:
    one, two = weights(), weights()
    site.add(7, 70, {"../../evil.safetensors": one, "x/EVIL.safetensors": two})
    model = sources().ensure(choice("7"))
    sha = hashlib.sha256(two).hexdigest()[:12]
    assert model.files == ("evil.safetensors", f"{sha}-EVIL.safetensors")
    assert {x.parent.name for x in tmp_path.rglob("*vil.safetensors")} == {"70"}


def test_a_broken_download_goes_on_and_a_busy_site_is_asked_again(
    site: Site, sources: Callable[..., Sources]
) -> None:
    def busy(asked: Asked) -> None:
        asked.head(503, Content_Length=0)

    def cut(asked: Asked) -> None:
        asked.serve(most=1000)

    site.site.plan("/api/v1/models/4201", busy, busy)
    sha = hashlib.sha256(FILES["style.safetensors"]).hexdigest()
    # The first request asks for the exact size: kilobytes are rounded.
    site.cdn.plan(f"/{sha}", lambda asked: asked.serve(), cut, busy)
    model = sources().ensure(choice())
    assert Path(model.path).read_bytes() == FILES["style.safetensors"]


def test_components_have_the_names_pipelines_look_for(
    site: Site, sources: Callable[..., Sources]
) -> None:
    parts = {"flux_transformer.safetensors": weights(), "flux_vae.safetensors": weights()}
    site.add(7, 70, parts)
    model = sources().ensure(choice("7"))
    assert model.path == model.root
    vae = Path(model.root, "vae", "diffusion_pytorch_model.safetensors")
    assert vae.is_symlink()
    assert vae.read_bytes() == parts["flux_vae.safetensors"]
    assert model.attributes["components"] == (
        "transformer/diffusion_pytorch_model.safetensors vae/diffusion_pytorch_model.safetensors"
    )


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("x-unet.safetensors", "unet/diffusion_pytorch_model.safetensors"),
        ("ae.safetensors", "vae/diffusion_pytorch_model.safetensors"),
        ("t5_xxl.safetensors", "text_encoder_2/model.safetensors"),
        ("clip_l.safetensors", "text_encoder/model.safetensors"),
        ("text_encoder_2.safetensors", "text_encoder_2/model.safetensors"),
        ("bare.safetensors", ""),
    ],
)
def test_names_tell_components(name: str, place: str) -> None:
    found = aliases_of((name, "style.safetensors"))
    assert found == ({place: name} if place else {})
    assert aliases_of((name,)) == {}


def test_a_plan_fetches_no_weights(site: Site, sources: Callable[..., Sources]) -> None:
    plan = sources().resolve(choice())
    assert plan.missing_bytes == len(FILES["style.safetensors"])
    sources().ensure(choice())
    assert sources().resolve(choice()).missing_bytes == 0


def test_globs_choose_among_the_files_of_a_version(site: Site, sources: Any) -> None:
    site.add(1, 5, {"a.safetensors": weights(), "b[x].safetensors": weights()})
    model = sources().ensure(choice("versions/5", allow_patterns=("b[[]x].safetensors",)))
    assert model.files == ("b[x].safetensors",)
    assert sources().ensure(choice("versions/5")).files == ("a.safetensors", "b[x].safetensors")
    with pytest.raises(CivitaiError, match="no file that") as error:
        sources().ensure(choice("versions/5", allow_patterns=("c*",)))
    assert error.value.code == "civitai_no_supported_files"


def test_the_newest_version_has_the_lowest_index_then_the_highest_id(site: Site) -> None:
    versions = [{"id": 5, "index": 1}, {"id": 7, "index": 0}, {"id": 9, "index": 0}]
    site.records["/api/v1/models/77"] = {"id": 77, "modelVersions": versions}
    opener = Opener(trusted=[site.site.origin])
    try:
        catalog = Catalog(opener, site.site.origin, "")
        assert catalog.newest(CivitaiRef(model_id="77"), CancelToken()) == "9"
    finally:
        opener.close()
