"""Images of data sets: what of each is seen, and what becomes of those that are broken."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.trainer.data.images import ImageFile, ImageOptions, image_bytes
from gen_worker.trainer.errors import InputMaterializationError

if TYPE_CHECKING:
    from pathlib import Path

Image = pytest.importorskip("PIL.Image")
_RED, _BLUE = (250, 0, 0), (0, 0, 250)


def halves(width: int, height: int) -> Any:
    """Return an image whose left half is red and right half is blue."""
    image = Image.new("RGB", (width, height), _BLUE)
    image.paste(_RED, (0, 0, width // 2, height))
    return image


def content_of(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def placed(content: bytes, options: ImageOptions, *key: int) -> Any:
    file = ImageFile(content, "row 3", options)
    return file.placed(options.placement(*file.size, *key))


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.builds(
        ImageOptions,
        resolution=st.integers(64, 600),
        crop=st.sampled_from(("center", "random")),
        buckets=st.booleans(),
        bucket_step=st.sampled_from((8, 64)),
    ),
    st.integers(),
)
def test_what_is_seen_is_within_the_image_and_keeps_its_aspect(
    width: int, height: int, options: ImageOptions, key: int
) -> None:
    placement = options.placement(width, height, key)

    left, top, right, bottom = placement.box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert (right - left) / (bottom - top) == pytest.approx(placement.size[0] / placement.size[1])
    assert right - left == pytest.approx(width) or bottom - top == pytest.approx(height)
    assert placement == options.placement(width, height, key)
    area = placement.size[0] * placement.size[1]
    assert area <= options.resolution**2
    if options.buckets:
        assert all(side % options.bucket_step == 0 for side in placement.size)


def test_the_middle_is_cut_out() -> None:
    image = placed(content_of(halves(200, 100)), ImageOptions(resolution=50))

    assert (image.mode, image.size) == ("RGB", (50, 50))
    assert (image.getpixel((5, 20)), image.getpixel((45, 20))) == (_RED, _BLUE)


def test_chances_follow_from_their_key() -> None:
    options = ImageOptions(resolution=50, crop="random", flip=0.5)
    made = [options.placement(200, 100, 7, epoch, 3) for epoch in range(40)]

    assert made == [options.placement(200, 100, 7, epoch, 3) for epoch in range(40)]
    assert len({one.box for one in made}) == 40
    assert {one.is_flipped for one in made} == {False, True}
    assert all(one.crop == (0, round(one.box[0] / 2)) for one in made)
    assert options.is_random
    assert not ImageOptions(flip=1.0).is_random


def test_a_flipped_image_is_mirrored() -> None:
    image = placed(content_of(halves(80, 80)), ImageOptions(resolution=40, flip=1.0))

    assert (image.getpixel((5, 20)), image.getpixel((35, 20))) == (_BLUE, _RED)


def test_sizes_of_buckets_follow_the_aspect() -> None:
    options = ImageOptions(resolution=512, buckets=True)
    sizes = [options.placement(*size, 0).size for size in ((90, 90), (200, 100), (90, 9000))]

    assert sizes == [(512, 512), (640, 384), (384, 640)]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_images_are_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = content_of(halves(120, 60), "JPEG", exif=exif, quality=95)
    options = ImageOptions(resolution=60)
    file = ImageFile(content, "x", options)

    is_sideways = orientation in (6, 8)
    assert file.size == ((60, 120) if is_sideways else (120, 60))
    image = file.placed(options.placement(*file.size, 0))
    ends = [(30, 5), (30, 55)] if is_sideways else [(5, 30), (55, 30)]
    reds = [image.getchannel("R").getpixel(at) == pytest.approx(250, abs=40) for at in ends]
    assert reds == ([True, False] if orientation in (1, 6) else [False, True])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "I;16", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    image = placed(content_of(Image.new(mode, (20, 20)), kind), ImageOptions(resolution=10))

    transparent, white, black = mode in ("RGBA", "LA"), (255, 255, 255), (0, 0, 0)
    expected = white if transparent or mode == "CMYK" else black
    assert (image.mode, image.getpixel((5, 5))) == ("RGB", expected)


def test_an_image_is_bytes_a_path_or_either_in_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"image")
    values: list[Any] = [
        b"image",
        bytearray(b"image"),
        {"bytes": b"image", "path": "not/there.png"},
        {"bytes": None, "path": "a.png"},
        "a.png",
        tmp_path / "a.png",
    ]
    for value in values:
        assert image_bytes(value, "row 1", root=str(tmp_path)) == b"image"
    wrong: list[Any] = [None, 3, "", {}, {"bytes": None, "path": None}, "none.png"]
    for value in wrong:
        with pytest.raises(InputMaterializationError, match="row 1 is not an image"):
            image_bytes(value, "row 1", root=str(tmp_path))


def test_broken_images_are_named() -> None:
    whole = content_of(Image.effect_noise((300, 300), 50))
    photo = content_of(Image.effect_noise((300, 300), 50), "JPEG")
    for content in (b"", b"text", whole[:20], whole[: len(whole) // 2], photo[: len(photo) // 2]):
        with pytest.raises(InputMaterializationError, match="row 3 is not an image") as raised:
            placed(content, ImageOptions())
        assert 'on_error to "skip"' in str(raised.value)


@given(st.binary(max_size=60), st.integers(0, 200))
def test_damage_anywhere_is_no_more_than_a_broken_image(noise: bytes, at: int) -> None:
    content = bytearray(content_of(halves(16, 16)))
    content[at : at + len(noise)] = noise
    try:
        image = placed(bytes(content), ImageOptions(resolution=8))
    except InputMaterializationError:
        return
    assert image.size == (8, 8)


def test_an_image_that_says_it_is_huge_is_not_decoded() -> None:
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    with pytest.raises(InputMaterializationError, match="81000000 pixels, more than the 1000000"):
        placed(bomb, ImageOptions(max_pixels=1_000_000))


def test_options_that_cannot_be_are_all_named() -> None:
    with pytest.raises(ValueError, match=r"resolution must be .*max_pixels must be .*flip must"):
        ImageOptions(resolution=0, max_pixels=0, flip=2.0)
    with pytest.raises(ValueError, match="at least bucket_step, 64"):
        ImageOptions(resolution=32, buckets=True)
