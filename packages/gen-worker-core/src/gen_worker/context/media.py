"""Which media type a file has, told by its first bytes and, failing that, by its name."""

from __future__ import annotations

__all__ = [
    "ALWAYS_SHOWN",
    "HEAD_BYTES",
    "media_type",
    "sniffed_media_type",
    "weights_format",
]

HEAD_BYTES = 512
"""How much of a file's beginning `sniffed_media_type` needs."""

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"II+\x00", "image/tiff"),
    (b"MM\x00+", "image/tiff"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"\x1aE\xdf\xa3", "video/webm"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
)
ALWAYS_SHOWN = frozenset(
    {"image/avif", "image/gif", "image/jpeg", "image/png", "image/tiff", "image/webp"}
)
"""Types whose files all begin as they should: content that does not show one of them is none."""

_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
# ISO base media files say what they are by their brand; all others of them are video.
_BRANDS = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"hevc": "image/heic",
    b"msf1": "image/heif",
    b"mif1": "image/heif",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"qt  ": "video/quicktime",
}
_SUFFIXES = {
    "aac": "audio/aac",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "csv": "text/csv",
    "flac": "audio/flac",
    "gif": "image/gif",
    "heic": "image/heic",
    "html": "text/html",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "json": "application/json",
    "m4a": "audio/mp4",
    "mkv": "video/x-matroska",
    "mov": "video/quicktime",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "pdf": "application/pdf",
    "png": "image/png",
    "svg": "image/svg+xml",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "txt": "text/plain",
    "wav": "audio/wav",
    "webm": "video/webm",
    "webp": "image/webp",
    "zip": "application/zip",
}
_WEIGHTS = frozenset({"safetensors", "bin", "pt", "pth", "ckpt"})


def sniffed_media_type(head: bytes) -> str | None:
    """Return the media type the content shows; None when it shows none.

    Args:
        head: The file's first `HEAD_BYTES` bytes, or all of a shorter file.
    """
    for signature, found in _SIGNATURES:
        if head.startswith(signature):
            return found
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "video/mp4")
    if head[:4] == b"OggS":
        return "video/ogg" if b"theora" in head else "audio/ogg"
    if head[:2] == b"BM" and head[6:10] == b"\x00\x00\x00\x00":
        return "image/bmp"
    return "audio/mpeg" if _is_mpeg_audio(head) else None


def media_type(head: bytes, name: str) -> str | None:
    """Return the type the content shows, else the one the name's suffix stands for."""
    return sniffed_media_type(head) or _SUFFIXES.get(name.rpartition(".")[2].lower())


def weights_format(name: str) -> str:
    """Return the format of a file of weights by its suffix; empty when it has none of theirs."""
    suffix = name.rpartition(".")[2].lower()
    return suffix if suffix in _WEIGHTS else ""


def _is_mpeg_audio(head: bytes) -> bool:
    """Check a frame header (ISO 11172-3): sync, and a layer and rates that exist."""
    if len(head) < 3 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 0b11, head[1] >> 1 & 0b11
    bit_rate, sample_rate = head[2] >> 4, head[2] >> 2 & 0b11
    return version != 0b01 and layer != 0b00 and bit_rate != 0b1111 and sample_rate != 0b11
