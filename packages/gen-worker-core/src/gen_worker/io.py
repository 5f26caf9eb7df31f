"""Read the files of a payload and write the files of a result.

`from gen_worker import io`, then `io.read_image(payload.image)`. Images need the extra `images`,
sounds the extra `audio`; nothing is imported before it is used.
"""

from __future__ import annotations

import math
import os
from typing import IO, TYPE_CHECKING, Any

from gen_worker.errors import ValidationError

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


__all__ = ["exists", "open", "read_audio", "read_bytes", "read_image", "write_image"]

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


def read_image(asset: StoredFile, mode: str = "RGB") -> Image:
    """Decode an image, its EXIF orientation applied.

    Args:
        asset: An image that is on this machine.
        mode: Pillow mode to convert to; empty keeps the file's own.

    Raises:
        ValidationError: The file is not on this machine, or is no image Pillow can decode.
        ImportError: The extra `images` is not installed.
    """
    pillow = _pillow()
    from PIL import ImageOps

    path = _path_of(asset)
    try:
        with pillow.open(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise ValidationError(f"{asset.ref!r} is no readable image: {error}") from error
    decoded: Image = image
    return decoded.convert(mode) if mode and decoded.mode != mode else decoded


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

    return ctx.save_bytes(ref, encode_image(image, format, quality=quality))


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('images need Pillow: install "gen-worker[images]"') from error
    return Image


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
        ImportError: The extra `audio` is not installed.
    """
    try:
        import soundfile  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError('sounds need soundfile: install "gen-worker[audio]"') from error
    path = _path_of(asset)
    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ValidationError(f"{asset.ref!r} is no readable sound: {error}") from error
    if mono and samples.ndim > 1:
        samples = samples.mean(axis=1)
    if target_sample_rate is not None and target_sample_rate != rate:
        samples = _resampled(samples, rate, target_sample_rate)
        rate = target_sample_rate
    return samples, int(rate)


def _resampled(samples: NDArray[np.float32], rate: int, target: int) -> NDArray[np.float32]:
    import numpy as np

    if target <= 0:
        raise ValueError(f"target_sample_rate must be above 0, not {target!r}")
    try:
        from scipy.signal import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
            resample_poly,
        )
    except ImportError:
        return _linear(samples, rate, target)
    divisor = math.gcd(rate, target)
    resampled = resample_poly(samples, target // divisor, rate // divisor, axis=0)
    return np.asarray(resampled, dtype=np.float32)


def _linear(samples: NDArray[np.float32], rate: int, target: int) -> NDArray[np.float32]:
    import numpy as np

    length = math.ceil(len(samples) * target / rate)
    at = np.arange(length) * (rate / target)
    known = np.arange(len(samples))
    if samples.ndim == 1:
        return np.asarray(np.interp(at, known, samples), dtype=np.float32)
    channels = [np.interp(at, known, channel) for channel in samples.T]
    return np.stack(channels, axis=1).astype(np.float32)
