"""A folder published by the client is what the hub resolves and serves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from blake3 import blake3

from gen_worker.errors import ValidationError
from gen_worker.models.hub import (
    CheckpointNotFoundError,
    Flavor,
    FlavorNotFoundError,
    HubClient,
    NoCompatibleArtifactError,
    RepoNotFoundError,
    TagNotFoundError,
    publish_flavors,
    publish_folder,
    pull_folder,
)
from gen_worker.models.refs import TensorhubRef, parse_ref
from gen_worker.models.snapshot import SnapshotFile, snapshot_of

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import RunningHub, ScriptedServer


def ref_of(text: str) -> TensorhubRef:
    ref = parse_ref(text)
    assert isinstance(ref, TensorhubRef)
    return ref


def write(folder: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(
        tmp_path / "model",
        config_dot_json=b'{"a": 1}',
        unet__weights_dot_bin=os.urandom(200_001),
        empty=b"",
    )


def test_a_published_folder_is_resolved_and_downloaded(hub: RunningHub, model: Path) -> None:
    with hub.client() as client:
        done = publish_folder(client, model, "Acme/Model", flavor="bf16")
        found = client.resolve(ref_of("acme/model"))
        pinned = client.resolve(ref_of(f"acme/model@{done.checkpoint_ids[0]}"))
        worker = client.resolve(ref_of("acme/model:latest#bf16"), for_inference=True)
    assert (done.owner, done.repo, done.tags, done.files) == ("acme", "model", ("prod",), 3)
    assert [file.path for file in found.snapshot.files] == [
        "config.json",
        "empty",
        "unet/weights.bin",
    ]
    assert found.snapshot == snapshot_of(
        SnapshotFile(path=f.path, size_bytes=f.size_bytes, blake3=f.blake3, url=f.url)
        for f in found.snapshot.files
    )
    assert found.snapshot.checkpoint_id == done.checkpoint_ids[0]
    assert pinned.snapshot.digest == worker.snapshot.digest == found.snapshot.digest
    assert (found.tags, found.flavors, found.revision_seq) == (("latest", "prod"), ("bf16",), 1)
    for file in found.snapshot.files:
        assert httpx.get(file.url, timeout=60).content == (model / file.path).read_bytes()


def test_links_are_published_as_what_they_point_to(hub: RunningHub, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", one=b"1", more__two=b"2")
    folder = write(tmp_path / "linked", own=b"0")
    (folder / "file").symlink_to(tmp_path / "elsewhere" / "one")
    (folder / "parts").symlink_to(tmp_path / "elsewhere" / "more")
    (folder / "again").symlink_to(folder)
    with hub.client() as client:
        publish_folder(client, folder, "acme/linked")
        paths = [file.path for file in client.resolve(ref_of("acme/linked")).snapshot.files]
    assert paths == ["file", "own", "parts/two"]


def test_what_does_not_exist_is_said_part_by_part(hub: RunningHub, model: Path) -> None:
    with hub.client() as client:
        publish_folder(client, model, "acme/model", flavor="bf16")
        with pytest.raises(RepoNotFoundError) as repo:
            client.resolve(ref_of("acme/other"))
        with pytest.raises(TagNotFoundError) as tag:
            client.resolve(ref_of("acme/model:v2"))
        with pytest.raises(FlavorNotFoundError) as flavor:
            client.resolve(ref_of("acme/model#int4"))
        with pytest.raises(CheckpointNotFoundError):
            client.resolve(ref_of(f"acme/model@blake3:{'0' * 64}"))
    assert repo.value.override_code == "override_ref_not_found"
    assert tag.value.override_code == "override_tag_not_found"
    assert tag.value.available == ("latest", "prod")
    assert flavor.value.override_code == "override_flavor_not_found"
    assert flavor.value.available == ("bf16",)


def test_a_second_publication_sends_only_what_changed(hub: RunningHub, model: Path) -> None:
    with hub.client() as client:
        first = publish_folder(client, model, "acme/model")
        write(model, config_dot_json=b'{"a": 2}')
        (model / "empty").unlink()
        second = publish_folder(client, model, "acme/model")
        found = client.resolve(ref_of("acme/model"))
        old = client.resolve(ref_of(f"acme/model@{first.checkpoint_ids[0]}"))
    assert first.sent_bytes == 200_001 + 8
    assert second.sent_bytes == 8
    assert [file.path for file in found.snapshot.files] == ["config.json", "unet/weights.bin"]
    assert len(old.snapshot.files) == 3


def test_a_publication_is_merged_with_latest_unless_told(hub: RunningHub, tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", a=b"1", b=b"1"), write(tmp_path / "two", b=b"2")
    with hub.client() as client:
        publish_folder(client, one, "acme/model", tags=())
        publish_folder(client, two, "acme/model", tags=(), keep_other_files=True)
        tree = client.tree("acme", "model")
    assert [(entry["path"], entry["size_bytes"]) for entry in tree] == [("a", 1), ("b", 1)]


def test_flavors_live_side_by_side_and_a_tag_has_a_default(hub: RunningHub, tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", a=b"1"), write(tmp_path / "two", a=b"22")
    flavors = (
        Flavor(folder=str(one), name="bf16", other_names=("half",)),
        Flavor(folder=str(two), name="fp8"),
    )
    with hub.client() as client:
        done = publish_flavors(client, flavors, "acme/model", tags=("prod", "v1"))
        ids = {
            text: client.resolve(ref_of(text)).snapshot.checkpoint_id
            for text in ("acme/model", "acme/model#fp8", "acme/model:v1#half", "acme/model:latest")
        }
        third = publish_folder(client, one, "acme/model", flavor="int4", default_flavor="fp8")
        after = client.resolve(ref_of("acme/model"))
    bf16, fp8 = done.checkpoint_ids
    assert list(ids.values()) == [bf16, fp8, bf16, bf16]
    assert after.snapshot.checkpoint_id == fp8
    assert after.flavors == ("bf16", "fp8", "half", "int4")
    assert third.checkpoint_ids == (bf16,)  # the same files are the same checkpoint


def test_attributes_choose_the_newest_that_has_them(hub: RunningHub, tmp_path: Path) -> None:
    with hub.client() as client:
        for name, dtype in (("a", "bf16"), ("b", "bf16"), ("c", "fp8")):
            folder = write(tmp_path / name, file=name.encode())
            publish_folder(client, folder, "acme/model", flavor=name, dtype=dtype)
        found = client.resolve(ref_of("acme/model"), attributes={"dtype": ("bf16", "fp16")})
        with pytest.raises(NoCompatibleArtifactError) as none:
            client.resolve(ref_of("acme/model"), attributes={"dtype": ("int4",)})
    assert (found.artifact.label, found.artifact.quantization) == ("b", "bf16")
    available: list[Any] = none.value.debug["available"]
    assert [form["dtype"] for form in available] == ["fp8", "bf16", "bf16"]


@pytest.mark.parametrize("tags", [("latest",), ("-x",), ("Ä",), ("a" * 64,)])
def test_tags_that_cannot_be_are_refused_before_anything_is_sent(
    hub: RunningHub, model: Path, tags: tuple[str, ...]
) -> None:
    with hub.client() as client:
        with pytest.raises(ValidationError):
            publish_folder(client, model, "acme/model", tags=tags)
        assert client.repos() == []


def test_the_answer_reads_alike_for_every_generation_of_workers(
    hub: RunningHub, model: Path
) -> None:
    with hub.client() as client:
        done = publish_folder(client, model, "acme/model", flavor="bf16", dtype="bf16")
        questions: list[dict[str, Any]] = [
            {"tag": "latest"},
            {"tag": "", "flavor": "bf16", "attributes": {"dtype": "bf16"}},
            {"tag": "none", "attributes": {"dtype": "fp8"}, "digest": done.checkpoint_ids[0]},
        ]
        answers = [
            client.connection.ask(
                "POST", f"/api/v1/{scope}/acme/model/resolve", phase="resolve", body=question
            ).data
            for scope in ("repos", "inference/repos")
            for question in questions
        ]
    for answer in answers:
        manifest = answer["snapshot_manifest"]
        assert manifest["files"] == manifest["entries"]
        assert answer["checkpoint_id"] == answer["snapshot_digest"] == answers[0]["checkpoint_id"]
        assert answer["repo_revision_seq"] == answer["version"] == 1
        assert answer["artifact"] == answer["variant"]
        assert answer["variant"]["quantization"] == answer["variant"]["dtype"] == "bf16"
        for entry in manifest["entries"]:
            assert entry["digest"] == f"blake3:{entry['blake3']}"
            assert set(entry) == {"path", "size_bytes", "digest", "blake3", "url"}


def test_tags_are_moved_and_removed(hub: RunningHub, model: Path) -> None:
    with hub.client() as client:
        first = publish_folder(client, model, "acme/model", flavor="bf16").checkpoint_ids[0]
        (model / "empty").unlink()
        publish_folder(client, model, "acme/model", flavor="bf16")
        client.move_tag("acme", "model", "stable", first)
        assert client.resolve(ref_of("acme/model:stable")).snapshot.checkpoint_id == first
        client.remove_tag("acme", "model", "stable")
        assert client.repo_exists("acme", "model")
        assert not client.repo_exists("acme", "other")
        with pytest.raises(TagNotFoundError):
            client.remove_tag("acme", "model", "stable")
        with pytest.raises(CheckpointNotFoundError):
            client.move_tag("acme", "model", "stable", f"blake3:{'1' * 64}")
        tags = [tag["tag"] for tag in client.repo("acme", "model")["tags"]]
    assert tags == ["latest", "prod"]


def test_a_hub_that_hands_out_grants_only_is_pulled_from(
    server: ScriptedServer, tmp_path: Path
) -> None:
    pytest.importorskip("boto3")
    data = b"weights"
    server.files["/bucket/key"] = data
    grant = {
        "endpoint_url": server.origin,
        "bucket": "bucket",
        "key": "key",
        "access_key_id": "id",
        "secret_access_key": "secret",
    }
    entry = {"path": "w", "size_bytes": 7, "blake3": blake3(data).hexdigest()}
    answer = {
        "checkpoint_id": "1" * 64,
        "snapshot_manifest": {"files": [{**entry, "transfer_grant": grant}]},
    }
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
    with HubClient(server.origin, transport=transport) as client:
        done = pull_folder(client, ref_of("acme/model"), tmp_path / "copy")
    assert done.fetched_bytes == 7
    assert (tmp_path / "copy" / "w").read_bytes() == data


def test_a_pull_fetches_what_is_missing_or_damaged(
    hub: RunningHub, model: Path, tmp_path: Path
) -> None:
    target = tmp_path / "copy"
    with hub.client() as client:
        publish_folder(client, model, "acme/model")
        first = pull_folder(client, ref_of("acme/model"), target)
        (target / "config.json").write_bytes(b"12345678")
        (target / "empty").unlink()
        (target / "own").write_bytes(b"mine")
        second = pull_folder(client, ref_of("acme/model"), target)
        with pytest.raises(RepoNotFoundError):
            pull_folder(client, ref_of("acme/other"), tmp_path / "none")
    assert (first.files, first.fetched_bytes, second.fetched_bytes) == (3, 200_009, 8)
    files = {path.relative_to(model): path.read_bytes() for path in model.rglob("*.*")}
    assert {name: (target / name).read_bytes() for name in files} == files
    assert (target / "own").read_bytes() == b"mine"
    assert (target / "empty").read_bytes() == b""
    assert not (tmp_path / "none").exists()
