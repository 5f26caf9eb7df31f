"""Models of Hugging Face, against a server that speaks its API and a CDN of another origin."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from gen_worker.errors import ModelResolutionError, ResourceError, classify
from gen_worker.models.choice import ModelChoice
from gen_worker.models.fetch import Fetcher, RetryLimits
from gen_worker.models.formats import UnsafeFileFormat
from gen_worker.models.net import Opener
from gen_worker.models.sources import (
    HuggingFaceOptions,
    ModelAccessError,
    OfflineMissError,
    Sources,
)
from gen_worker.models.store import ContentStore, DiskFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Asked, ScriptedServer

pytest.importorskip("huggingface_hub")

COMMIT, OTHER = "c" * 40, "d" * 40
LARGE_BYTES = 20_000
"""Files from here on are kept elsewhere, as large ones are on the real site."""


def weights(count: int = 20_000, dtype: str = "BF16") -> bytes:
    entry = {"dtype": dtype, "shape": [count], "data_offsets": [0, 2 * count]}
    header = json.dumps({"weight": entry}).encode()
    return struct.pack("<Q", len(header)) + header + os.urandom(2 * count)


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Site:
    """Answers as huggingface.co does: JSON, small files itself, large ones from a CDN."""

    def __init__(self, site: ScriptedServer, cdn: ScriptedServer) -> None:
        self.site, self.cdn = site, cdn
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, str] = {"main": COMMIT}
        self.token = ""
        """What may read; empty: everybody."""
        self.is_gated = False
        self.is_on_xet = False
        self.lies: dict[str, str] = {}
        """Hashes that the listing tells instead of the true ones, by path."""
        site.default = self.answer

    def add(self, repo: str, files: dict[str, bytes], commit: str = COMMIT) -> None:
        self.repos.setdefault(repo, {})[commit] = files
        for data in files.values():
            self.cdn.files[f"/blob/{hashlib.sha256(data).hexdigest()}"] = data

    def asked(self, part: str) -> int:
        return sum(part in one.path for one in self.site.asked)

    def answer(self, asked: Asked) -> None:
        if self.token and asked.headers.get("authorization") != f"Bearer {self.token}":
            known = asked.headers.get("authorization") is not None
            code = "GatedRepo" if self.is_gated else "RepoNotFound"
            self._refuse(asked, 403 if known or self.is_gated else 401, code)
            return
        parts = [unquote(part) for part in asked.path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self._describe(asked, "/".join(parts[2:4]), parts[4:])
        else:
            self._file(asked, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    def _describe(self, asked: Asked, repo: str, rest: list[str]) -> None:
        revision = rest[1] if rest else "main"
        commits = self.repos.get(repo)
        if commits is None:
            self._refuse(asked, 404, "RepoNotFound")
            return
        commit = self.branches.get(revision, revision)
        if commit not in commits:
            self._refuse(asked, 404, "RevisionNotFound")
        elif rest[:1] == ["tree"]:
            self._json(asked, [self._entry(*item) for item in sorted(commits[commit].items())])
        else:
            self._json(asked, {"id": repo, "sha": commit, "siblings": []})

    def _entry(self, path: str, data: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
        if len(data) >= LARGE_BYTES:
            sha = self.lies.get(path, hashlib.sha256(data).hexdigest())
            entry["lfs"] = {"oid": sha, "size": len(data), "pointerSize": 134}
            if self.is_on_xet:
                entry["xetHash"] = sha
        return entry

    def _file(self, asked: Asked, repo: str, commit: str, path: str) -> None:
        data = self.repos[repo][commit].get(path)
        if data is None:
            self._refuse(asked, 404, "EntryNotFound")
        elif len(data) >= LARGE_BYTES:
            place = self.cdn.url(f"/blob/{hashlib.sha256(data).hexdigest()}?signature=secret")
            sha = hashlib.sha256(data).hexdigest()
            asked.head(
                302,
                Location=place,
                Content_Length=0,
                X_Repo_Commit=commit,
                X_Linked_Etag=f'"{sha}"',
                X_Linked_Size=len(data),
            )
        else:
            self.site.files[asked.path] = asked.data = data
            asked.stop = min(asked.stop or len(data), len(data)) if asked.is_ranged else len(data)
            asked.serve()

    def _refuse(self, asked: Asked, status: int, code: str) -> None:
        asked.head(status, X_Error_Code=code, X_Error_Message=code, Content_Length=0)

    def _json(self, asked: Asked, value: Any) -> None:
        data = json.dumps(value).encode()
        asked.head(200, Content_Type="application/json", Content_Length=len(data))
        asked.send(data)


PIPELINE = {
    "model_index.json": json.dumps(
        {"_class_name": "P", "unet": ["diffusers", "U"], "scheduler": ["diffusers", "S"]}
    ).encode(),
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": weights(dtype="F32"),
    "unet/diffusion_pytorch_model.fp16.safetensors": weights(dtype="F16"),
    "unet/diffusion_pytorch_model.bin": os.urandom(LARGE_BYTES),
    "scheduler/scheduler_config.json": b"{ }",
    "README.md": b"hello",
}
SELECTED = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
)


@pytest.fixture
def site(start_server: Callable[[], ScriptedServer]) -> Site:
    site = Site(start_server(), start_server())
    site.add("Acme/Tiny", PIPELINE)
    return site


@pytest.fixture
def sources(site: Site, tmp_path: Path) -> Iterator[Callable[..., Sources]]:
    openers: list[Opener] = []

    def start(*, retries: int = 4, read_timeout_s: float = 60.0, **options: Any) -> Sources:
        names = set(options) & set(HuggingFaceOptions.__struct_fields__)
        chosen = {name: options.pop(name) for name in names}
        trusted = [site.site.origin, site.cdn.origin]
        opener = Opener(trusted=trusted, read_timeout_s=read_timeout_s)
        openers.append(opener)
        limits = RetryLimits(factor_s=0.01, cap_s=0.02, max_tries=retries)
        defaults = {"home": str(tmp_path / "hf"), "endpoint": site.site.origin}
        return Sources(
            ContentStore(tmp_path / "cas", reserve_bytes=0),
            opener,
            Fetcher(opener, retries=limits, durable=False, stall_window_s=1.0),
            huggingface=HuggingFaceOptions(**{**defaults, **chosen}),
            **options,
        )

    yield start
    for opener in openers:
        opener.close()


def choice(ref: str = "Acme/Tiny", **fields: Any) -> ModelChoice:
    return ModelChoice(ref=ref, provider="hf", **fields)


def repo_dir(tmp_path: Path, name: str = "Acme--Tiny") -> Path:
    return tmp_path / "hf" / "hub" / f"models--{name}"


def test_a_cache_that_cannot_be_written_is_named(
    sources: Callable[..., Sources], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hf").write_bytes(b"")
    with pytest.raises(ModelResolutionError, match="cannot be written, Not a directory"):
        sources().ensure(choice())
    (tmp_path / "hf").unlink()
    sources().ensure(choice())
    shutil.rmtree(repo_dir(tmp_path) / "snapshots")  # the blobs are here

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ResourceError, match="no space left"):
        sources().ensure(choice())


def test_a_selection_lands_in_the_cache_that_other_tools_share(
    sources: Callable[..., Sources], tmp_path: Path
) -> None:
    model = sources().ensure(choice())
    cache = repo_dir(tmp_path)
    assert model.files == SELECTED
    assert (model.path, model.digest) == (str(cache / "snapshots" / COMMIT), COMMIT)
    assert (cache / "refs" / "main").read_text() == COMMIT
    for path in SELECTED:
        found = Path(model.root, path)
        assert found.read_bytes() == PIPELINE[path]
        assert found.is_symlink()
    assert model.attributes == {"file_layout": "diffusers", "variant": "fp16", "dtype": "fp16"}
    assert model.bytes_downloaded == model.size_bytes == sum(len(PIPELINE[x]) for x in SELECTED)
    # The library itself finds everything there without the network.
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    folder = str(tmp_path / "hf" / "hub")
    for path in SELECTED:
        assert try_to_load_from_cache("Acme/Tiny", path, cache_dir=folder)
    assert snapshot_download("Acme/Tiny", cache_dir=folder, local_files_only=True) == model.path


def test_what_is_complete_costs_one_question_and_a_commit_none(
    site: Site, sources: Callable[..., Sources]
) -> None:
    first = sources().ensure(choice())
    before = len(site.site.asked)
    again = sources().ensure(choice())
    assert (again.path, again.was_cached, again.bytes_downloaded) == (first.path, True, 0)
    assert len(site.site.asked) == before + 1
    pinned = sources().ensure(choice(revision=COMMIT))
    before = len(site.site.asked)
    assert sources().ensure(choice(revision=COMMIT)).path == pinned.path == first.path
    assert len(site.site.asked) == before


def test_a_moved_branch_is_followed_and_shares_blobs(
    site: Site, sources: Callable[..., Sources], tmp_path: Path
) -> None:
    sources().ensure(choice())
    site.add("Acme/Tiny", PIPELINE | {"unet/config.json": b'{"new": 1}'}, OTHER)
    site.branches["main"] = OTHER
    model = sources().ensure(choice())
    assert (model.digest, model.bytes_downloaded) == (OTHER, len(b'{"new": 1}'))
    assert (repo_dir(tmp_path) / "refs" / "main").read_text() == OTHER


def test_flavors_and_repeated_fetches_never_make_another_tree(
    sources: Callable[..., Sources], tmp_path: Path
) -> None:
    one = sources().ensure(choice())
    other = sources().ensure(choice("Acme/Tiny#fp8"))
    assert (other.path, other.bytes_downloaded) == (one.path, 0)
    assert [x.name for x in (repo_dir(tmp_path) / "snapshots").iterdir()] == [COMMIT]


def test_revision_subfolder_globs_and_dtype_of_the_author_count(
    site: Site, sources: Callable[..., Sources]
) -> None:
    site.add("Acme/Tiny", PIPELINE | {"unet/config.json": b'{"v": 2}'}, OTHER)
    site.branches["v2"] = OTHER
    found = sources().ensure(choice(revision="v2"))
    assert found.digest == OTHER
    found = sources().ensure(choice(subfolder="unet", dtype="float32"))
    assert found.files == ("unet/config.json", "unet/diffusion_pytorch_model.safetensors")
    assert found.path == os.path.join(found.root, "unet")
    assert found.attributes["dtype"] == "fp32"
    found = sources().ensure(choice(allow_patterns=("*.md",)))
    assert found.files == ("README.md",)


def test_the_token_reaches_every_call_of_the_site_and_never_the_cdn(
    site: Site, sources: Callable[..., Sources]
) -> None:
    site.token = "hf_secret"
    sources(token="hf_secret").ensure(choice())
    assert {one.headers.get("authorization") for one in site.site.asked} == {"Bearer hf_secret"}
    assert site.cdn.asked
    assert not any("authorization" in one.headers for one in site.cdn.asked)


def test_the_token_of_a_login_is_used_when_none_is_set(
    site: Site, sources: Callable[..., Sources], tmp_path: Path
) -> None:
    site.token = "hf_login"
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_login\n")
    assert sources().ensure(choice()).files == SELECTED


@pytest.mark.parametrize(
    ("token", "is_gated", "match", "kind"),
    [
        ("", False, "set HF_TOKEN", ModelAccessError),
        ("wrong", False, "HF_TOKEN that may read it", ModelAccessError),
        ("wrong", True, "accept its conditions", ModelAccessError),
        ("", True, "and set HF_TOKEN", ModelAccessError),
    ],
)
def test_a_refusal_says_what_to_do(
    token: str,
    is_gated: bool,
    match: str,
    kind: type[Exception],
    site: Site,
    sources: Callable[..., Sources],
) -> None:
    site.token, site.is_gated = "hf_secret", is_gated
    with pytest.raises(kind, match=match) as error:
        sources(token=token).ensure(choice())
    assert "'Acme/Tiny'" in str(error.value)
    assert "wrong" not in str(error.value)
    assert classify(error.value).exit_code == 3


@pytest.mark.parametrize(
    ("asked", "match"),
    [(choice("Acme/None"), "not on Hugging Face"), (choice(revision="v9"), "no such revision")],
)
def test_what_does_not_exist_is_named(
    asked: ModelChoice, match: str, sources: Callable[..., Sources]
) -> None:
    with pytest.raises(ModelResolutionError, match=match) as error:
        sources().ensure(asked)
    assert not error.value.retryable


def test_a_busy_site_is_asked_again(site: Site, sources: Callable[..., Sources]) -> None:
    def busy(asked: Asked) -> None:
        asked.head(503, Content_Length=0)

    site.site.plan("/api/models/Acme/Tiny", busy)
    assert sources().ensure(choice()).files == SELECTED


def test_a_silent_site_leaves_the_last_known_meaning_and_it_is_said(
    site: Site, sources: Callable[..., Sources], caplog: pytest.LogCaptureFixture
) -> None:
    sources().ensure(choice())
    site.site.close()
    events: list[str] = []
    with caplog.at_level(logging.WARNING):
        model = sources().ensure(choice(), tell=lambda kind, payload: events.append(kind))
    assert (model.digest, model.is_last_known) == (COMMIT, True)
    assert events == ["model.resolve.last_known"]
    with pytest.raises(ModelResolutionError, match="check the network") as error:
        sources(may_use_last_known=False).ensure(choice())
    assert error.value.retryable


def test_a_commit_that_other_tools_left_is_hashed_once_before_it_is_believed(
    site: Site, sources: Callable[..., Sources], tmp_path: Path
) -> None:
    folder = repo_dir(tmp_path)
    for path in SELECTED:
        blob = folder / "blobs" / git_hash(PIPELINE[path])
        if path == SELECTED[-1]:
            blob = folder / "blobs" / hashlib.sha256(PIPELINE[path]).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(b"?" * len(PIPELINE[path]) if blob.name[40:] else PIPELINE[path])
        target = folder / "snapshots" / COMMIT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(blob)
    model = sources().ensure(choice(revision=COMMIT))
    assert Path(model.root, SELECTED[-1]).read_bytes() == PIPELINE[SELECTED[-1]]
    assert model.bytes_downloaded == len(PIPELINE[SELECTED[-1]])


def test_selections_that_share_files_are_fetched_side_by_side(
    site: Site, sources: Callable[..., Sources]
) -> None:
    started = sources()
    wanted = [choice(), choice("Acme/Tiny#x"), choice(allow_patterns=("unet/*",)), choice()]
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(started.ensure, wanted))
    for model in models:
        for path in model.files:
            assert Path(model.root, path).read_bytes() == PIPELINE[path]


# Offline.


def test_offline_finds_what_is_complete_and_asks_nobody(
    site: Site, sources: Callable[..., Sources]
) -> None:
    with pytest.raises(OfflineMissError, match="'Acme/Tiny'"):
        sources(is_offline=True).ensure(choice())
    fetched = sources().ensure(choice())
    before = len(site.site.asked)
    assert sources(is_offline=True).ensure(choice()).path == fetched.path
    with pytest.raises(OfflineMissError):
        sources(is_offline=True).ensure(choice(revision=OTHER))
    assert len(site.site.asked) == before


@pytest.mark.parametrize("lacking", ["", "unet/diffusion_pytorch_model.fp16.safetensors"])
def test_a_cache_of_other_tools_counts_when_it_has_every_component(
    lacking: str, sources: Callable[..., Sources], tmp_path: Path
) -> None:
    folder = repo_dir(tmp_path)
    for path in set(SELECTED) - {lacking}:
        target = folder / "snapshots" / COMMIT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(PIPELINE[path])
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    offline = sources(is_offline=True)
    if lacking:
        with pytest.raises(OfflineMissError):
            offline.ensure(choice())
    else:
        assert offline.ensure(choice()).files == SELECTED


def test_a_file_that_was_removed_makes_it_incomplete(
    sources: Callable[..., Sources],
) -> None:
    model = sources().ensure(choice())
    os.unlink(os.path.join(model.root, SELECTED[-1]))
    assert sources().find(choice()) is None
    with pytest.raises(OfflineMissError):
        sources(is_offline=True).ensure(choice())
    assert sources().ensure(choice()).files == SELECTED


# What goes wrong on the way.


def serve(asked: Asked) -> None:
    asked.serve()


def large_path() -> str:
    data = PIPELINE["unet/diffusion_pytorch_model.fp16.safetensors"]
    return f"/blob/{hashlib.sha256(data).hexdigest()}"


def test_a_broken_download_goes_on(site: Site, sources: Callable[..., Sources]) -> None:
    def cut(asked: Asked) -> None:
        asked.serve(most=10_000)

    def busy(asked: Asked) -> None:
        asked.head(500, Content_Length=0)

    def limited(asked: Asked) -> None:
        asked.head(429, Retry_After=0, Content_Length=0)

    site.cdn.plan(large_path(), serve, cut, busy, limited)
    model = sources(retries=8).ensure(choice())
    assert Path(model.root, SELECTED[-1]).read_bytes() == PIPELINE[SELECTED[-1]]


def test_a_stalled_download_is_tried_again(site: Site, sources: Callable[..., Sources]) -> None:
    def stall(asked: Asked) -> None:
        size = len(asked.data)
        asked.head(206, Content_Length=size, Content_Range=f"bytes 0-{size - 1}/{size}")
        site.cdn.released.wait(60)

    # The header is read first, to learn the dtype.
    site.cdn.plan(large_path(), serve, stall)
    model = sources(read_timeout_s=2.0).ensure(choice())
    assert Path(model.root, SELECTED[-1]).read_bytes() == PIPELINE[SELECTED[-1]]


def test_bytes_that_are_not_the_listed_ones_are_never_linked(
    site: Site, sources: Callable[..., Sources], tmp_path: Path
) -> None:
    site.lies[SELECTED[-1]] = "a" * 64
    with pytest.raises(ModelResolutionError, match="digest"):
        sources().ensure(choice())
    assert not (repo_dir(tmp_path) / "blobs" / ("a" * 64)).exists()
    assert not (repo_dir(tmp_path) / "snapshots" / COMMIT / SELECTED[-1]).exists()
    assert sources().find(choice()) is None


def test_a_wrong_blob_of_another_tool_is_not_believed(
    sources: Callable[..., Sources], tmp_path: Path
) -> None:
    data = PIPELINE[SELECTED[-1]]
    blob = repo_dir(tmp_path) / "blobs" / hashlib.sha256(data).hexdigest()
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x" * len(data))
    model = sources().ensure(choice())
    assert Path(model.root, SELECTED[-1]).read_bytes() == data


def test_a_redirect_to_a_private_address_is_refused(
    site: Site, sources: Callable[..., Sources]
) -> None:
    def astray(asked: Asked) -> None:
        asked.head(302, Location="http://169.254.169.254/latest/meta-data", Content_Length=0)

    site.add("Acme/One", {"model.safetensors": weights()})
    site.site.plan(f"/Acme/One/resolve/{COMMIT}/model.safetensors", astray)
    with pytest.raises(ModelResolutionError, match=r"169\.254\.169\.254"):
        sources().ensure(choice("Acme/One"))


def test_hostile_listings_never_leave_the_cache(
    site: Site, sources: Callable[..., Sources], tmp_path: Path
) -> None:
    site.add("Acme/Evil", {"../../evil.json": b"{}", "model.safetensors": weights()})
    with pytest.raises(ValueError, match="leaves its directory"):
        sources().ensure(choice("Acme/Evil", allow_patterns=("*",)))
    assert not list(tmp_path.rglob("evil.json"))
    site.lies["model.safetensors"] = "../../../evil"
    with pytest.raises(ModelResolutionError, match="which is none"):
        sources().ensure(choice("Acme/Evil"))


def test_unsafe_repositories_are_refused_before_anything_is_fetched(
    site: Site, sources: Callable[..., Sources], tmp_path: Path
) -> None:
    site.add("Acme/Old", {"config.json": b"{}", "pytorch_model.bin": os.urandom(LARGE_BYTES)})
    with pytest.raises(UnsafeFileFormat, match=r"pytorch_model\.bin"):
        sources().ensure(choice("Acme/Old"))
    assert not repo_dir(tmp_path, "Acme--Old").exists()


def test_a_selection_above_the_limit_is_refused_before_anything_is_fetched(
    sources: Callable[..., Sources], tmp_path: Path
) -> None:
    with pytest.raises(ModelResolutionError, match="COZY_HF_MAX_REPO_BYTES"):
        sources(max_repo_bytes=1000).ensure(choice())
    assert not repo_dir(tmp_path).exists()


def test_precisions_and_whole_repositories_are_settings(sources: Callable[..., Sources]) -> None:
    found = sources(precisions=("fp32",)).ensure(choice())
    assert found.attributes["dtype"] == "fp32"


def test_everything_can_be_had(sources: Callable[..., Sources]) -> None:
    assert set(sources(takes_all=True).ensure(choice()).files) == set(PIPELINE)


def test_a_download_that_takes_too_long_is_ended(
    site: Site, sources: Callable[..., Sources]
) -> None:
    def slow(asked: Asked) -> None:
        site.cdn.released.wait(60)
        asked.cut()

    site.cdn.plan(large_path(), serve, *[slow] * 9)
    with pytest.raises(ModelResolutionError, match="COZY_HF_DOWNLOAD_MAX_SECONDS") as error:
        sources(max_seconds=0.3).ensure(choice())
    assert error.value.retryable


def test_a_full_disk_is_told_before_a_byte_moves(
    site: Site, sources: Callable[..., Sources]
) -> None:
    with pytest.raises(DiskFullError):
        sources(reserve_bytes=1 << 60).ensure(choice())
    assert not [one for one in site.cdn.asked if not one.is_ranged]


def test_a_plan_fetches_no_weights(site: Site, sources: Callable[..., Sources]) -> None:
    plan = sources().resolve(choice())
    assert tuple(file.path for file in plan.files) == SELECTED
    assert plan.missing_bytes == plan.size_bytes == sum(len(PIPELINE[x]) for x in SELECTED)
    sources().ensure(choice())
    assert sources().resolve(choice()).missing_bytes == 0


def test_events_tell_of_a_download_as_specified(sources: Callable[..., Sources]) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    sources().ensure(choice(), tell=lambda kind, payload: events.append((kind, payload)))
    total = sum(len(PIPELINE[path]) for path in SELECTED)
    base = {"model_id": "Acme/Tiny", "provider": "hf", "source": "huggingface"}
    assert events[0] == (
        "worker.model.download.started",
        base | {"estimated_total_bytes": total, "estimated_eta_seconds": -1},
    )
    assert events[-1][0] == "worker.model.download.completed"


# The library's own way, when plain HTTP fails for good.


def agent_of(asked: Asked) -> str:
    return asked.headers.get("user-agent", "")


def breaks_our_own(site: Site, then: Callable[[Asked], None]) -> bytes:
    """Let the CDN fail for this worker, and answer the library with `then`."""

    def answer(asked: Asked) -> None:
        if "hf_hub" in agent_of(asked):
            then(asked)
        else:
            asked.head(500, Content_Length=0)

    site.is_on_xet = True
    site.cdn.default = answer
    data = weights()
    site.add("Acme/One", {"model.safetensors": data, "README.md": b"small"})
    return data


def test_the_library_fetches_what_plain_http_does_not_bring(
    site: Site, sources: Callable[..., Sources]
) -> None:
    pytest.importorskip("hf_xet")
    data = breaks_our_own(site, serve)
    model = sources(retries=2).ensure(choice("Acme/One"))
    assert Path(model.path).read_bytes() == data
    assert any("hf_hub" in agent_of(one) for one in site.cdn.asked)


def test_a_library_that_hangs_is_killed(site: Site, sources: Callable[..., Sources]) -> None:
    pytest.importorskip("hf_xet")

    def hang(asked: Asked) -> None:
        site.cdn.released.wait(60)

    breaks_our_own(site, hang)
    with pytest.raises(ModelResolutionError, match="next to nothing"):
        sources(retries=2, stall_timeout_s=3.0).ensure(choice("Acme/One"))


def test_a_wrong_file_of_the_library_is_not_believed(
    site: Site, sources: Callable[..., Sources]
) -> None:
    pytest.importorskip("hf_xet")

    def lie(asked: Asked) -> None:
        asked.serve(flip=len(asked.data) - 1)

    breaks_our_own(site, lie)
    with pytest.raises(ModelResolutionError):
        sources(retries=2).ensure(choice("Acme/One"))
    assert sources().find(choice("Acme/One")) is None
