"""Resizes images and describes them, with Pillow."""

from typing import Annotated, Literal

import gen_worker as gw
import msgspec
from gen_worker import Asset, Clamp, ImageAsset, RequestContext, inference_function


class Picture(msgspec.Struct):
    image: ImageAsset


class Resize(msgspec.Struct):
    image: ImageAsset
    width: Annotated[int, Clamp(1, 4096)] = 512
    """Of the result, in pixels; the height follows."""
    format: Literal["png", "jpeg", "webp"] = "webp"


class Resized(msgspec.Struct):
    image: Asset
    width: int
    height: int


class Description(msgspec.Struct):
    width: int
    height: int
    mode: str
    mean_rgb: tuple[int, int, int]


@inference_function
def resize(ctx: RequestContext, payload: Resize) -> Resized:
    """Scale an image to a width, keeping its proportions."""
    image = gw.io.read_image(payload.image)
    height = max(1, round(image.height * payload.width / image.width))
    scaled = image.resize((payload.width, height))
    asset = gw.io.write_image(ctx, f"resized.{payload.format}", scaled, format=payload.format)
    return Resized(image=asset, width=scaled.width, height=scaled.height)


@inference_function
def describe(ctx: RequestContext, payload: Picture) -> Description:
    """Measure an image: size, colour mode and mean colour."""
    image = gw.io.read_image(payload.image, mode="")
    red, green, blue = image.convert("RGB").resize((1, 1)).tobytes()
    return Description(image.width, image.height, image.mode, (red, green, blue))
