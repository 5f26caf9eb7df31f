"""Images a handler stores."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any, cast

import pytest

from gen_worker.context import RequestContext
from gen_worker.context.images import encode_image

if TYPE_CHECKING:
    from pathlib import Path

images = pytest.importorskip("PIL.Image", reason="Pillow is an extra")

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16")


@pytest.fixture(autouse=True)
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEN_WORKER_LOCAL_OUTPUT_DIR", str(tmp_path))
    return tmp_path


def opened(data: bytes) -> Any:
    image = images.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize(
    ("format", "ref", "mime_type", "kind"),
    [
        ("webp", "image.webp", "image/webp", "WEBP"),
        ("png", "image.png", "image/png", "PNG"),
        ("jpeg", "image.jpg", "image/jpeg", "JPEG"),
        ("jpg", "image.jpg", "image/jpeg", "JPEG"),
        ("JPG", "image.jpg", "image/jpeg", "JPEG"),
        (".png", "image.png", "image/png", "PNG"),
    ],
)
def test_an_image_is_stored_in_the_format_asked_for(
    format: str, ref: str, mime_type: str, kind: str
) -> None:
    asset = RequestContext("t").save_image(images.new("RGB", (8, 6), "red"), format=format)

    assert (asset.ref, asset.mime_type) == (f"jobs/t/outputs/{ref}", mime_type)
    stored = opened(asset.read_bytes())
    assert (stored.format, stored.size) == (kind, (8, 6))


@pytest.mark.parametrize("format", ["webp", "png", "jpeg"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_can_be_stored_in_every_format(mode: str, format: str) -> None:
    image = (
        images.new("RGB", (4, 4), "white").convert(mode)
        if mode != "I;16"
        else images.new(mode, (4, 4))
    )

    assert opened(encode_image(image, format)).size == (4, 4)


def test_transparency_survives_where_the_format_has_it() -> None:
    image = images.new("RGBA", (2, 2), (10, 20, 30, 0))

    assert opened(encode_image(image, "png")).getpixel((0, 0)) == (10, 20, 30, 0)
    assert opened(encode_image(image, "webp", lossless=True)).mode == "RGBA"


def test_jpeg_puts_transparency_on_white() -> None:
    assert opened(encode_image(images.new("RGBA", (8, 8), (0, 0, 0, 0)), "jpeg")).getpixel(
        (4, 4)
    ) == (255, 255, 255)
    assert opened(encode_image(images.new("RGBA", (8, 8), "black"), "jpeg")).getpixel((4, 4)) == (
        0,
        0,
        0,
    )


def test_lossless_webp_keeps_every_pixel() -> None:
    image = images.effect_noise((16, 16), 80).convert("RGB")

    assert opened(encode_image(image, "webp", lossless=True)).tobytes() == image.tobytes()


def test_a_lower_quality_is_smaller() -> None:
    image = images.effect_noise((64, 64), 80).convert("RGB")

    assert len(encode_image(image, "jpeg", quality=10)) < len(encode_image(image, "jpeg"))


def test_several_images_without_a_ref_do_not_replace_each_other() -> None:
    ctx = RequestContext("t")
    image = images.new("RGB", (1, 1))

    refs = [ctx.save_image(image).ref, ctx.save_image(image).ref, ctx.save_image(image, "x").ref]

    assert refs == [f"jobs/t/outputs/{name}" for name in ("image.webp", "image-2.webp", "x")]


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'tiff' is not one of jpeg, jpg, png, webp"):
        RequestContext("t").save_image(images.new("RGB", (1, 1)), format="tiff")


def test_an_async_handler_stores_an_image() -> None:
    async def main() -> Any:
        return await RequestContext("t").asave_image(
            images.new("RGB", (1, 1)), "x.png", format="png"
        )

    assert opened(asyncio.run(main()).read_bytes()).format == "PNG"


def test_an_image_may_be_answered_inline() -> None:
    ctx = RequestContext("t", hints={"output_format": "inline"})

    asset = ctx.save_image(images.new("RGB", (1, 1)), format="png")

    assert opened(cast("bytes", asset.inline_bytes)).format == "PNG"
    assert asset.mime_type == "image/png"
