"""Media types told by content and name."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.context.media import media_type, sniffed_media_type


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "audio/wav"),
        (b"RIFF\x00\x00\x00\x00ACON", None),
        (b"\x00\x00\x00\x18ftypisom", "video/mp4"),
        (b"\x00\x00\x00\x18ftypM4A ", "audio/mp4"),
        (b"\x00\x00\x00\x18ftypavif", "image/avif"),
        (b"ID3\x04", "audio/mpeg"),
        (b"\xff\xfb\x90\x64", "audio/mpeg"),
        (b"\xff\xff\xff\xff", None),
        (b"fLaC\x00", "audio/flac"),
        (b"OggS\x00\x02\x01vorbis", "audio/ogg"),
        (b"OggS\x00\x02\x80theora", "video/ogg"),
        (b"BM" + struct.pack("<IHH", 70, 0, 0), "image/bmp"),
        (b"BMW is a car maker", None),
        (b"plain text", None),
        (b"", None),
    ],
)
def test_content_tells_its_type(head: bytes, expected: str | None) -> None:
    assert sniffed_media_type(head) == expected


@pytest.mark.parametrize(
    ("head", "name", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n", "x.jpg", "image/png"),
        (b"", "a/b.JPG", "image/jpeg"),
        (b"{}", "x.json", "application/json"),
        (b"", "png", "image/png"),
        (b"", "x.unknown", None),
        (b"", "", None),
    ],
)
def test_content_wins_over_the_name(head: bytes, name: str, expected: str | None) -> None:
    assert media_type(head, name) == expected


@given(head=st.binary(max_size=600), name=st.text(max_size=20))
def test_any_content_has_a_type_or_none(head: bytes, name: str) -> None:
    found = media_type(head, name)
    assert found is None or "/" in found
