"""Width and height of images, read from their headers."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.runtime.files.image_size import image_size

SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF0000WEBPVP8 ", b"\xff\xd8\xff\xc0")


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (300, 7), (4096, 2)])
def test_the_header_says_what_decoding_says(
    format: str, options: dict[str, bool], size: tuple[int, int]
) -> None:
    images = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for mode in ("RGB", "RGBA") if format == "WEBP" else ("RGB",):
        buffer = io.BytesIO()
        images.new(mode, size).save(buffer, format, **options)
        buffer.seek(0)

        assert image_size(buffer) == size


def test_metadata_before_the_frame_is_skipped() -> None:
    exif = b"\xff\xe1" + (2 + 300).to_bytes(2, "big") + b"\xff\xc0" * 150
    frame = b"\xff\xff\xff\xc2\x00\x11\x08\x01\x02\x03\x04" + bytes(12)

    assert image_size(io.BytesIO(b"\xff\xd8" + exif + frame)) == (0x0304, 0x0102)


def frame(width: int, height: int) -> bytes:
    return b"\xff\xc0\x00\x0b\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes(4)


def test_the_largest_of_several_frames_counts() -> None:
    """Decoders differ in which one they believe: a small first one must not hide another."""
    jpeg = b"\xff\xd8" + frame(1, 9) + frame(40_000, 3) + b"\xff\xda"
    assert image_size(io.BytesIO(jpeg)) == (40_000, 9)


def test_a_frame_beyond_the_screen_of_a_gif_counts() -> None:
    """Pillow enlarges the screen to hold it."""
    comment = b"!\xfe\x03abc\x00"
    for table in (b"\x00\x00\x00", b"\x80\x00\x00" + bytes(6)):
        screen = b"GIF89a\x01\x00\x02\x00" + table
        first = b",\x10\x00\x00\x00\x50\xc3\x01\x00\x00"
        assert image_size(io.BytesIO(screen + comment + first)) == (0xC350 + 16, 2)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8" + b"\xff" * 2_000_000,
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 500_000,
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00!\xfe" + b"\x01a" * 500_000,
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00" + b"!\xfe\x00" * 500_000,
    ],
)
def test_endless_metadata_is_given_up(content: bytes) -> None:
    class Counted(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.reads += 1
            return super().read(size)

    file = Counted(content)
    assert image_size(file) is None
    assert file.reads < 25_000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xe0\x00\x01",
        b"RIFF0000WEBPVP8X",
        b"RIFF0000WAVE",
    ],
)
def test_what_is_cut_off_has_no_size(content: bytes) -> None:
    assert image_size(io.BytesIO(content)) is None


@given(signature=st.sampled_from(SIGNATURES), rest=st.binary(max_size=200))
def test_any_content_ends_in_a_size_or_none(signature: bytes, rest: bytes) -> None:
    size = image_size(io.BytesIO(signature + rest))

    assert size is None or (len(size) == 2 and all(side >= 0 for side in size))
