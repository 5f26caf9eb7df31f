from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from gen_worker.types import (
    Asset,
    AudioAsset,
    Compute,
    DatasetRef,
    DestinationRepo,
    ImageAsset,
    LoraSpec,
    MediaAsset,
    OutputSpec,
    ProducedFlavor,
    SourceRepo,
    StoredFile,
    Tensors,
    VideoAsset,
)


@pytest.mark.parametrize("cls", [Asset, ImageAsset, Tensors])
def test_a_file_on_this_machine_is_a_path(cls: type[StoredFile], tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"content")
    file = cls("some/ref", local_path=str(path))
    assert os.fspath(file) == str(path)
    assert Path(file).read_bytes() == b"content"
    assert file.exists()
    assert file.read_bytes() == b"content"
    with file.open() as opened:
        assert opened.read(3) == b"con"


@pytest.mark.parametrize("cls", [Asset, Tensors])
def test_a_file_elsewhere_is_no_path(cls: type[StoredFile]) -> None:
    file = cls("some/ref")
    assert not file.exists()
    with pytest.raises(ValueError, match="'some/ref' has no local_path"):
        os.fspath(file)
    with pytest.raises(ValueError, match="local_path"):
        file.open()


def test_reading_is_bounded_on_request(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"12345")
    tensors = Tensors("w", local_path=str(path))
    assert tensors.read_bytes(max_bytes=5) == b"12345"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        tensors.read_bytes(max_bytes=4)


@pytest.mark.parametrize("mode", ["w", "wb", "a", "r+", "rt"])
def test_files_are_opened_for_reading_bytes_only(mode: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode must be 'rb'"):
        Tensors("w", local_path=str(tmp_path / "absent")).open(mode)


def test_the_asset_family() -> None:
    assert issubclass(MediaAsset, Asset)
    kinds = {cls: cls.media_kind for cls in (Asset, MediaAsset, ImageAsset, VideoAsset, AudioAsset)}
    assert kinds == {
        Asset: "",
        MediaAsset: "",
        ImageAsset: "image",
        VideoAsset: "video",
        AudioAsset: "audio",
    }
    for cls in (ImageAsset, VideoAsset, AudioAsset):
        assert issubclass(cls, MediaAsset)
        assert cls.__struct_fields__ == Asset.__struct_fields__


def test_assets_are_mutable_and_travel_as_json_and_msgpack() -> None:
    asset = ImageAsset("r", inline_bytes=b"\x89PNG", size_bytes=4)
    asset.mime_type = "image/png"
    assert msgspec.json.decode(msgspec.json.encode(asset), type=ImageAsset) == asset
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(asset), type=ImageAsset) == asset
    assert b'"inline_bytes":"iVBORw=="' in msgspec.json.encode(asset)


def test_a_ref_alone_is_an_asset_and_no_ref_is_none() -> None:
    assert msgspec.json.decode(b'{"ref": "a"}', type=Asset) == Asset("a")
    with pytest.raises(msgspec.ValidationError, match="ref"):
        msgspec.json.decode(b"{}", type=Asset)


def test_compute_is_frozen_and_knows_its_older_name() -> None:
    compute = Compute(accelerator="cuda", min_compute_capability="8.0", vram_gb=24)
    assert compute.cuda_compute_min == "8.0"
    assert (compute.gpu_count, compute.gpu_tier) == (0, None)
    with pytest.raises(AttributeError):
        compute.vram_gb = 48  # type: ignore[misc]  # the point of the test


def test_a_produced_flavor_keeps_the_path_as_given() -> None:
    flavor = ProducedFlavor(Path("out") / "model.safetensors", attributes={"dtype": "fp8"})
    assert flavor.path == Path("out/model.safetensors")
    assert (flavor.extra_files, flavor.flavor, flavor.flavors) == ([], "", [])


def test_reserved_payload_types_have_their_defaults() -> None:
    assert SourceRepo("a/b") == SourceRepo(ref="a/b", checkpoint_id=None, attributes={})
    assert DestinationRepo("a/b").tags == []
    assert OutputSpec().attributes == {}
    assert DatasetRef("a/b").split == "train"
    assert LoraSpec(Asset("l")).weight == 1.0


def test_containers_are_not_shared_between_instances() -> None:
    SourceRepo("a/b").attributes["k"] = 1
    assert SourceRepo("a/b").attributes == {}


def test_what_is_set_is_shown_but_no_token_and_no_content() -> None:
    asset = ImageAsset("cat.png", download_token="hunter2", inline_bytes=b"x" * 9, size_bytes=9)
    expected = (
        "ImageAsset(ref='cat.png', size_bytes=9, download_token='***', inline_bytes='<9 bytes>')"
    )
    assert repr(asset) == expected
    assert "hunter2" not in repr([Tensors("a", download_token="hunter2")])
