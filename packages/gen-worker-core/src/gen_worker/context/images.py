"""From a Pillow image to the bytes of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageFormat", "encode_image", "image_format"]


class ImageFormat(NamedTuple):
    encoder: str
    """Pillow's name."""
    mime_type: str
    suffix: str


_FORMATS = {
    "jpeg": ImageFormat("JPEG", "image/jpeg", "jpg"),
    "jpg": ImageFormat("JPEG", "image/jpeg", "jpg"),
    "png": ImageFormat("PNG", "image/png", "png"),
    "webp": ImageFormat("WEBP", "image/webp", "webp"),
}
_MODES = {
    "WEBP": ("RGB", "RGBA"),
    "PNG": ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"),
}


def image_format(name: str) -> ImageFormat:
    """Return the format an author means by `webp`, `png`, `jpeg` or `jpg`.

    Raises:
        ValueError: It is another one.
    """
    try:
        return _FORMATS[name.lower().lstrip(".")]
    except KeyError:
        known = ", ".join(_FORMATS)
        raise ValueError(f"image format {name!r} is not one of {known}") from None


def encode_image(
    image: Image, format: str = "webp", *, quality: int = 95, lossless: bool = False
) -> bytes:
    """Encode an image, converting its mode to one the format knows.

    Transparency that JPEG cannot keep is laid on white.

    Args:
        image: A Pillow image.
        format: As `image_format` knows it.
        quality: 1 to 100 for WebP and JPEG; PNG is always lossless.
        lossless: WebP only.

    Raises:
        ValueError: The format is another one.
    """
    import io

    encoder = image_format(format).encoder
    options: dict[str, object] = {} if encoder == "PNG" else {"quality": quality}
    if encoder == "WEBP":
        # Method 6 is the slowest and smallest; outputs have always been stored with it.
        options |= {"lossless": lossless, "method": 6}
    image = _without_alpha(image) if encoder == "JPEG" else _in_mode(image, _MODES[encoder])
    buffer = io.BytesIO()
    image.save(buffer, encoder, **options)
    return buffer.getvalue()


def _without_alpha(image: Image) -> Image:
    if image.mode in ("RGB", "L", "CMYK"):
        return image
    if not image.has_transparency_data:
        return image.convert("RGB")
    from PIL import Image as images

    layered = image.convert("RGBA")
    white = images.new("RGBA", layered.size, "white")
    return images.alpha_composite(white, layered).convert("RGB")


def _in_mode(image: Image, modes: tuple[str, ...]) -> Image:
    if image.mode in modes:
        return image
    if image.mode == "I" and "I;16" in modes:
        return image.convert("I;16")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
