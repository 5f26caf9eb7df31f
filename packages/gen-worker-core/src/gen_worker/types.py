"""The values that endpoints exchange with their callers, and those their kinds reserve."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import msgspec

__all__ = [
    "Asset",
    "AudioAsset",
    "Compute",
    "DatasetRef",
    "DestinationRepo",
    "ImageAsset",
    "LoraSpec",
    "MediaAsset",
    "OutputSpec",
    "ProducedFlavor",
    "SourceRepo",
    "StoredFile",
    "Tensors",
    "VideoAsset",
]

# msgspec evaluates field types, and has none for paths.
if TYPE_CHECKING:
    from collections.abc import Callable

    AnyPath = str | os.PathLike[str]
else:
    AnyPath = Any


_VEILS: dict[str, Callable[[Any], str]] = {
    "download_token": lambda _token: "***",
    "inline_bytes": lambda content: f"<{len(content)} bytes>",
}


class StoredFile(msgspec.Struct):
    """A file known by its ref: the base of `Asset` and `Tensors`.

    Inputs have a `local_path` by the time the handler runs. It is never taken from a payload.
    """

    ref: str
    """An http(s) URL, or the logical name it is stored under."""
    owner: str | None = None
    local_path: str | None = None

    def __fspath__(self) -> str:
        """Return `local_path`; `ValueError` when the file is not on this machine."""
        if not self.local_path:
            raise ValueError(
                f"{type(self).__name__} {self.ref!r} has no local_path: "
                "only files of a running call's payload, or ones you set it on, are on disk"
            )
        return self.local_path

    def __repr__(self) -> str:
        """Show what is set; never a token, and of content only its size."""
        shown = {
            name: _VEILS[name](value) if name in _VEILS else value
            for name, value in zip(
                self.__struct_fields__, msgspec.structs.astuple(self), strict=True
            )
            if value not in (None, ())
        }
        facts = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"{type(self).__name__}({facts})"

    def exists(self) -> bool:
        """Tell whether the file is on this machine; never raises."""
        return bool(self.local_path) and os.path.exists(str(self.local_path))

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open the file for reading bytes; any other mode is a `ValueError`."""
        if mode not in ("r", "rb"):
            raise ValueError(f"mode must be 'rb', not {mode!r}")
        return open(self.__fspath__(), "rb")

    def read_bytes(self, max_bytes: int | None = None) -> bytes:
        """Return the whole content.

        Args:
            max_bytes: `ValueError` when the file is larger; None reads any size.
        """
        with self.open() as file:
            if max_bytes is None:
                return file.read()
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise ValueError(f"{self.ref!r} has more than {max_bytes} bytes")
        return content


class Asset(StoredFile):
    """A file of any type.

    A stored output has `ref` and digests, an inline output has `inline_bytes` (base64 in JSON).
    """

    media_kind: ClassVar[str] = ""
    """First half of the MIME types allowed: `image`, `video`, `audio`; empty allows any."""

    mime_type: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    blake3: str | None = None
    media_id: str | None = None
    download_token: str | None = None
    stream_mode: str | None = None
    inline_bytes: bytes | None = None
    url_max_bytes: int | None = None
    """This and the other `url_` limits: annotate the field with `AssetLimits` instead."""
    url_allowed_mime_types: tuple[str, ...] = ()
    url_max_width: int | None = None
    url_max_height: int | None = None
    url_max_pixels: int | None = None
    url_validation_context: str | None = None


class MediaAsset(Asset):
    """An image, a video or a sound."""


class ImageAsset(MediaAsset):
    """An image; as an input its content is checked to be one."""

    media_kind: ClassVar[str] = "image"


class VideoAsset(MediaAsset):
    """A video; as an input its content is checked to be one."""

    media_kind: ClassVar[str] = "video"


class AudioAsset(MediaAsset):
    """A sound; as an input its content is checked to be one."""

    media_kind: ClassVar[str] = "audio"


class Tensors(StoredFile):
    """A file of model weights."""

    format: str | None = None
    """`safetensors`, `bin`, `pt`, `pth`, `ckpt` or `unknown`."""
    size_bytes: int | None = None
    sha256: str | None = None
    blake3: str | None = None
    blob_digest: str | None = None
    blob_domain: str | None = None
    blob_path: str | None = None
    snapshot_digest: str | None = None
    download_token: str | None = None
    stream_mode: str | None = None


class Compute(msgspec.Struct, frozen=True):
    """The hardware a call was placed on; zero and empty where it is not known."""

    accelerator: str = ""
    min_compute_capability: str = ""
    vram_gb: int = 0
    gpu_count: int = 0
    gpu_tier: str | None = None
    memory_gb: int = 0
    cpu_cores: int = 0
    disk_gb: int = 0

    @property
    def cuda_compute_min(self) -> str:
        """Older name of `min_compute_capability`."""
        return self.min_compute_capability


class ProducedFlavor(msgspec.Struct):
    """One artifact of a conversion or training: published as a revision of the destination."""

    path: AnyPath
    """A file, or a directory that is published whole."""
    attributes: dict[str, Any] = {}
    extra_files: list[AnyPath] = []
    flavor: str = ""
    flavors: list[str] = []


class SourceRepo(msgspec.Struct):
    """What a job reads; the payload field is named `source`."""

    ref: str
    checkpoint_id: str | None = None
    attributes: dict[str, Any] = {}


class DestinationRepo(msgspec.Struct):
    """Where a job publishes; the payload field is named `destination`."""

    ref: str
    tags: list[str] = []


class OutputSpec(msgspec.Struct):
    """One wanted output; the payload field is a list named `outputs`."""

    attributes: dict[str, Any] = {}


class DatasetRef(msgspec.Struct):
    """One dataset; the payload field is a list named `datasets`."""

    ref: str
    checkpoint_id: str | None = None
    attributes: dict[str, Any] = {}
    split: str = "train"


class LoraSpec(msgspec.Struct):
    """A LoRA adapter that a caller brings along."""

    file: Asset
    weight: float = 1.0
    adapter_name: str | None = None
