"""Read the files of a payload and write the files of a result.

`from gen_worker import io`, then `io.read_image(payload.image)`. Images need the extra `images`,
sounds the extra `audio`; nothing is imported before it is used.
"""

from __future__ import annotations

import math
import os
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any

from gen_worker.errors import InputTooLargeError, ValidationError

if TYPE_CHECKING:
    from types import ModuleType
    from typing import Protocol

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from gen_worker.types import Asset, StoredFile

    class Saver(Protocol):
        """What `write_image` needs of a context."""

        def save_bytes(self, ref: str, data: bytes) -> Asset: ...


__all__ = [
    "MAX_AUDIO_SAMPLES",
    "exists",
    "open",
    "read_audio",
    "read_bytes",
    "read_image",
    "write_image",
]

_builtin_open = open


def _path_of(asset: StoredFile) -> str:
    if not asset.local_path:
        raise ValidationError(
            f"{type(asset).__name__} {asset.ref!r} is not on this machine: "
            "files of the payload are, while the handler runs"
        )
    return asset.local_path


def read_bytes(asset: StoredFile) -> bytes:
    """Return the whole content of a file.

    Raises:
        ValidationError: The file is not on this machine.
    """
    with _builtin_open(_path_of(asset), "rb") as file:
        return file.read()


def open(asset: StoredFile, mode: str = "rb") -> IO[Any]:
    """Open a file for reading; text modes decode UTF-8.

    Raises:
        ValidationError: The file is not on this machine.
        ValueError: `mode` would write.
    """
    if mode not in ("r", "rt", "rb"):
        raise ValueError(f"mode must be 'rb' or 'r', not {mode!r}: an input is only read")
    return _builtin_open(_path_of(asset), mode, encoding=None if "b" in mode else "utf-8")


def exists(asset: StoredFile) -> bool:
    """Tell whether the file is on this machine; never raises."""
    path = getattr(asset, "local_path", None)
    return isinstance(path, str) and os.path.exists(path)


# Formats that Pillow decodes by itself. It knows more, but hands EPS to Ghostscript, a programming
# language, and an input may be of any format whatever it is called.
_COMMON_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM")
_OTHER_FORMATS = ("WEBP", "TIFF", "AVIF", "JPEG2000", "ICO", "QOI", "HEIF", "JXL")


def read_image(asset: StoredFile, mode: str = "RGB") -> Image:
    """Decode an image, turned upright as its EXIF orientation says.

    JPEG, PNG, GIF, BMP, PPM, WebP, TIFF, AVIF, JPEG 2000, ICO and QOI are read; HEIF and JPEG XL
    where a plugin for Pillow is registered. Of an animation the first frame is read.

    Args:
        asset: An image that is on this machine.
        mode: Pillow mode to convert to; empty keeps the file's own.

    Raises:
        ValidationError: The file is not on this machine, is no image of these formats, is damaged,
            cannot be converted, or has over twice `PIL.Image.MAX_IMAGE_PIXELS` pixels.
        ImportError: The extra `images` is not installed.
    """
    pillow = _pillow()
    try:
        with _builtin_open(_path_of(asset), "rb") as file:
            image = _decoded(pillow, file)
    except (MemoryError, ValidationError):
        raise
    except Exception as error:  # what decoders raise for damaged content is documented nowhere
        # Pillow's own sentence names a path of this machine.
        is_unknown = isinstance(error, pillow.UnidentifiedImageError)
        reason = "its format is not known" if is_unknown else _reason(error)
        raise ValidationError(f"{asset.ref!r} is no readable image: {reason}") from error
    try:
        return image.convert(mode) if mode and image.mode != mode else image
    except ValueError as error:
        raise ValidationError(
            f"{asset.ref!r} cannot be converted from mode {image.mode!r} to {mode!r}"
        ) from error


def _reason(error: Exception) -> str:
    """Say what went wrong without the path that errors of the system and libsndfile name."""
    return getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)


def _decoded(pillow: Any, file: IO[bytes]) -> Image:
    from PIL import ImageOps

    pillow.preinit()
    try:
        opened = pillow.open(file, formats=_COMMON_FORMATS)
    except pillow.UnidentifiedImageError:
        pillow.init()  # takes some time, so only where it is needed
        known = [name for name in _OTHER_FORMATS if name in pillow.OPEN]
        opened = pillow.open(file, formats=known)
    with opened:
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
    image: Image = opened
    return image


def write_image(
    ctx: Saver, ref: str, image: Image, *, format: str = "webp", quality: int = 90
) -> Asset:
    """Encode an image and save it as an output of the call.

    Args:
        ctx: The call's context.
        ref: Name of the output; used as it is, no suffix is added.
        image: A Pillow image. For JPEG, transparency is put on white.
        format: `webp`, `jpeg`, `jpg` or `png`.
        quality: 1 to 100; png ignores it.

    Raises:
        ValueError: `format` is another.
    """
    from gen_worker.context.images import encode_image

    since = perf_counter()
    data = encode_image(image, format, quality=quality)
    if (measured := getattr(ctx, "_measured", None)) is not None:
        measured("image_encode_ms", (perf_counter() - since) * 1000)
    return ctx.save_bytes(ref, data)


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('images need Pillow: install "gen-worker[images]"') from error
    return Image


MAX_AUDIO_SAMPLES = 1 << 30
"""Largest sound `read_audio` decodes, all channels counted: 4 GiB, or 3 hours of 48 kHz stereo."""


def read_audio(
    asset: StoredFile, target_sample_rate: int | None = None, mono: bool = True
) -> tuple[NDArray[np.float32], int]:
    """Decode a sound.

    Args:
        asset: A sound that is on this machine.
        target_sample_rate: Samples per second to resample to; None keeps the file's own. Polyphase
            when scipy is installed, else linear.
        mono: Mix all channels down to their mean.

    Returns:
        float32 samples in -1..1, of shape `(samples,)`, or `(samples, channels)` for more than one
        channel with `mono=False`; and their rate in samples per second.

    Raises:
        ValidationError: The file is not on this machine, or is no sound soundfile can decode.
        InputTooLargeError: It has, or would have at the new rate, over `MAX_AUDIO_SAMPLES`.
        ImportError: The extra `audio` is not installed.
    """
    try:
        import soundfile  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError('sounds need soundfile: install "gen-worker[audio]"') from error
    target = target_sample_rate
    if target is not None and not (isinstance(target, int) and target > 0):
        raise ValueError(f"target_sample_rate must be a whole number above 0, not {target!r}")
    path = _path_of(asset)
    try:
        with soundfile.SoundFile(path) as sound:
            rate = int(sound.samplerate)
            # Both numbers are the file's own word: nothing is reserved before they are checked.
            _check_samples(asset, sound.frames * sound.channels * max(target or 0, rate) // rate)
            samples = sound.read(dtype="float32")
    except (soundfile.SoundFileError, RuntimeError, TypeError, OSError) as error:
        raise ValidationError(f"{asset.ref!r} is no readable sound: {_reason(error)}") from error
    if mono and samples.ndim > 1:
        samples = samples.mean(axis=1)
    if target is not None and target != rate and len(samples):
        return _resampled(samples, rate, target), target
    return samples, target or rate


def _check_samples(asset: StoredFile, count: int) -> None:
    if count > MAX_AUDIO_SAMPLES:
        sample_bytes = 4
        raise InputTooLargeError(
            f"{asset.ref!r} decodes to {count} samples, at most {MAX_AUDIO_SAMPLES} are allowed",
            size_bytes=count * sample_bytes,
            max_bytes=MAX_AUDIO_SAMPLES * sample_bytes,
        )


def _resampled(samples: NDArray[np.float32], rate: int, target: int) -> NDArray[np.float32]:
    import numpy as np

    try:
        from scipy.signal import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
            resample_poly,
        )
    except ImportError:
        return _linear(samples, rate, target)
    divisor = math.gcd(rate, target)
    resampled = resample_poly(samples, target // divisor, rate // divisor, axis=0)
    return np.asarray(resampled, dtype=np.float32)


_RESAMPLED_AT_ONCE = 1 << 20  # what is computed on the way takes several times the room


def _linear(samples: NDArray[np.float32], rate: int, target: int) -> NDArray[np.float32]:
    import numpy as np

    length = math.ceil(len(samples) * target / rate)
    resampled = np.empty((length, *samples.shape[1:]), dtype=np.float32)
    known = np.arange(len(samples))
    for begin in range(0, length, _RESAMPLED_AT_ONCE):
        at = np.arange(begin, min(begin + _RESAMPLED_AT_ONCE, length)) * (rate / target)
        for channel in np.ndindex(samples.shape[1:]):
            resampled[begin : begin + len(at), *channel] = np.interp(
                at, known, samples[:, *channel]
            )
    return resampled
