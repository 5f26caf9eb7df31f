"""Images as they are kept in data sets, made into tensors of the size that a model is trained on.

Everything random about an image follows from a seed, the epoch and the image's index: neither the
order in which images are read, nor by how many threads, makes a difference.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from gen_worker.trainer.data.order import uniforms
from gen_worker.trainer.errors import InputMaterializationError

if TYPE_CHECKING:
    from PIL import Image as PillowImage

__all__ = ["ImageFile", "ImageOptions", "Placement", "image_bytes", "tensor_of"]

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # others run foreign programs, or are rare
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_LONGEST_SIDE = 2.0
"""A bucket's longer side is at most so many times its shorter one."""


class ImageOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What every image is made into."""

    resolution: int = 512
    """Pixels of each side; with buckets, the root of a bucket's largest area."""
    crop: Literal["center", "random"] = "center"
    """What is cut off where the aspect differs."""
    flip: float = 0.0
    """Chance that an image is mirrored."""
    buckets: bool = False
    """Whether an image becomes the bucket's size that is nearest to its aspect, not a square."""
    bucket_step: int = 64
    """Sides of buckets are multiples of this."""
    max_pixels: int = 89_478_485
    """More are taken for an attack; the limit of Pillow."""
    on_error: Literal["fail", "skip"] = "fail"
    """What becomes of a run that meets a broken image."""

    def __post_init__(self) -> None:
        """Refuse what no image could become; every mistake is named."""
        problems = [
            f"{name} must be at least 1, it is {getattr(self, name)}"
            for name in ("resolution", "bucket_step", "max_pixels")
            if getattr(self, name) < 1
        ]
        if not 0 <= self.flip <= 1:
            problems.append(f"flip must be from 0 to 1, it is {self.flip}")
        if self.buckets and self.resolution < self.bucket_step:
            problems.append(f"resolution must be at least bucket_step, {self.bucket_step}")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def is_random(self) -> bool:
        """Whether an image is another in another epoch."""
        return self.crop == "random" or 0 < self.flip < 1

    def placement(self, width: int, height: int, *key: int | str) -> Placement:
        """Return what becomes of an upright image.

        Args:
            width: In pixels, as is the height.
            height: As above.
            key: What chances follow from: seed, epoch and index.
        """
        to = self._target(width, height)
        scale = max(to[0] / width, to[1] / height)
        whole = (to[0] / scale, to[1] / scale)
        chance_x, chance_y, chance_flip = uniforms(3, *key)
        at = (chance_x, chance_y) if self.crop == "random" else (0.5, 0.5)
        left = max(0.0, width - whole[0]) * at[0]
        top = max(0.0, height - whole[1]) * at[1]
        box = (left, top, min(left + whole[0], width), min(top + whole[1], height))
        return Placement(
            (width, height), to, box, (round(top * scale), round(left * scale)),
            chance_flip < self.flip,
        )  # fmt: skip

    def _target(self, width: int, height: int) -> tuple[int, int]:
        if not self.buckets:
            return self.resolution, self.resolution
        aspect = math.log(width / height)
        sizes = _buckets(self.resolution, self.bucket_step)
        return min(sizes, key=lambda to: (abs(math.log(to[0] / to[1]) - aspect), -to[0] * to[1]))


class Placement(NamedTuple):
    """What of an image is seen, and where. Sizes are width and height."""

    original: tuple[int, int]
    """Upright."""
    size: tuple[int, int]
    """What it becomes."""
    box: tuple[float, float, float, float]
    """Of the original: left, top, right and bottom."""
    crop: tuple[int, int]
    """Top and left of the box, once the image is as large as it becomes."""
    is_flipped: bool


class ImageFile:
    """An image of which the header is read."""

    def __init__(self, content: bytes, name: str, options: ImageOptions) -> None:
        """Look at it; its pixels are not decoded yet.

        Args:
            content: Of the file.
            name: What errors call it, such as its row.
            options: What it is to become.

        Raises:
            InputMaterializationError: It is no image, or far too large.
            RuntimeError: Pillow is not installed.
        """
        self._name = name
        self._image = _opened(content, name)
        width, height = self._image.size
        if width * height > options.max_pixels:
            limit = options.max_pixels
            raise _refused(name, f"it has {width * height} pixels, more than the {limit} allowed")
        if not width or not height:
            raise _refused(name, "it has no pixels")
        try:
            is_sideways = self._image.getexif().get(_ORIENTATION) in _SIDEWAYS
        except Exception as error:
            raise _broken(name, error) from error
        self.size = (height, width) if is_sideways else (width, height)
        """Width and height, once it is upright."""

    def placed(self, placement: Placement) -> PillowImage.Image:
        """Decode it, and return what is seen of it, upright and in RGB.

        Raises:
            InputMaterializationError: It ends too early, or is damaged.
        """
        from PIL import Image, ImageOps

        try:
            image = _in_rgb(ImageOps.exif_transpose(self._image))
            resized = image.resize(
                placement.size, Image.Resampling.LANCZOS, placement.box, reducing_gap=3.0
            )
        except Exception as error:  # whatever a decoder makes of a hostile file
            raise _broken(self._name, error) from error
        return ImageOps.mirror(resized) if placement.is_flipped else resized


def image_bytes(value: Any, name: str, *, root: str = "") -> bytes:
    """Return the file of an image.

    Args:
        value: Its bytes, its path, or a mapping with one of these, as Hugging Face keeps images.
        name: What errors call it.
        root: Of relative paths.

    Raises:
        InputMaterializationError: There is no such file, or it is none of these.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (str, os.PathLike)) and os.fspath(value):
        try:
            with open(os.path.join(root, value), "rb") as file:
                return file.read()
        except OSError as error:
            raise _refused(name, str(error)) from error
    kind = type(value).__name__
    raise _refused(name, f"an image is bytes, a path or a mapping with one of these, not {kind}")


def tensor_of(image: PillowImage.Image) -> Any:
    """Return an RGB image as a tensor of shape (3, height, width), float32 from -1 to 1."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    channels_last = pixels.view(image.height, image.width, 3)
    return channels_last.permute(2, 0, 1).to(torch.float32).div(127.5).sub(1.0).contiguous()


def _opened(content: bytes, name: str) -> PillowImage.Image:
    try:
        from PIL import Image
    except ImportError:
        raise RuntimeError(
            "images are read with Pillow: pip install 'gen-worker[images]'"
        ) from None
    try:
        return Image.open(io.BytesIO(content), formats=_FORMATS)
    except Exception as error:
        raise _broken(name, error) from error


def _in_rgb(image: PillowImage.Image) -> PillowImage.Image:
    """Return it in RGB; what is transparent is white."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        image = image.point(lambda value: value / 256).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _broken(name: str, error: Exception) -> InputMaterializationError:
    return _refused(name, f"{type(error).__name__}: {error}")


def _refused(name: str, why: str) -> InputMaterializationError:
    return InputMaterializationError(
        f'{name} is not an image that can be trained on: {why}; mend it, or set on_error to "skip"'
    )


@lru_cache
def _buckets(resolution: int, step: int) -> tuple[tuple[int, int], ...]:
    """Return all sizes of at most the resolution's area, each as high as its width allows."""
    area = resolution * resolution
    sizes = {(width, area // width // step * step) for width in range(step, 2 * resolution, step)}
    sizes |= {(height, width) for width, height in sizes}
    return tuple(
        sorted(size for size in sizes if min(size) and max(size) <= _LONGEST_SIDE * min(size))
    )
