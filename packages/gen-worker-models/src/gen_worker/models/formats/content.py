"""Tell what a file is by its first bytes, because a name promises nothing."""

from __future__ import annotations

from typing import Literal

from gen_worker.models.formats.damage import WrongFormatError

__all__ = ["HEAD_BYTES", "Content", "content_of", "refuse_other_content", "sniff"]

Content = Literal[
    "safetensors",
    "gguf",
    "zip",
    "pickle",
    "hdf5",
    "numpy",
    "tar",
    "gzip",
    "html",
    "git-lfs",
    "json",
    "empty",
    "unknown",
]

HEAD_BYTES = 264
"""How much of a file `sniff` wants: a tar archive names itself at byte 257."""

_RUNS_CODE: frozenset[Content] = frozenset({"zip", "pickle", "hdf5", "numpy", "tar"})
_WORDS: dict[Content, str] = {
    "zip": "a zip archive, as torch.save writes it",
    "pickle": "a pickle",
    "hdf5": "an HDF5 file, as Keras writes it",
    "numpy": "a NumPy file",
    "tar": "a tar archive",
    "gzip": "a gzip file",
    "html": "a web page, most likely an error message",
    "git-lfs": "a Git LFS pointer instead of the content",
    "json": "JSON, most likely an error message",
    "gguf": "a GGUF file",
    "safetensors": "a safetensors file",
    "empty": "empty",
}
_MAGIC: tuple[tuple[bytes, Content], ...] = (
    (b"GGUF", "gguf"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"\x93NUMPY", "numpy"),
    (b"\x1f\x8b", "gzip"),
    (b"version https://git-lfs", "git-lfs"),
)


def content_of(path: str) -> Content:
    """Tell what the file is, as far as its first bytes show.

    Raises:
        OSError: It cannot be opened.
        WrongFormatError: It is no plain file.
    """
    from gen_worker.models.formats.plain_files import open_plain, read_exactly

    with open_plain(path) as (descriptor, _):
        return sniff(read_exactly(descriptor, HEAD_BYTES, 0))


def sniff(head: bytes) -> Content:
    """Tell what a file is that begins with these bytes."""
    if not head:
        return "empty"
    # First of all: the size of a header may begin like any of the others. It is below 2**32.
    if head[4:9] == b"\0\0\0\0{":
        return "safetensors"
    for magic, content in _MAGIC:
        if head.startswith(magic):
            return content
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):  # and its protocol
        return "pickle"
    text = head.lstrip()[:15].lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "html"
    if text.startswith((b"{", b"[")):
        return "json"
    return "tar" if head[257:262] == b"ustar" else "unknown"


def refuse_other_content(path: str, head: bytes, wanted: Content) -> None:
    """Raise when these first bytes plainly belong to something else than `wanted`.

    Raises:
        UnsafeFileFormat: To something that may run code.
        WrongFormatError: To something harmless, such as an error page.
    """
    content = sniff(head)
    if content in _RUNS_CODE:
        from gen_worker.models.formats.unsafe import UnsafeFileFormat

        raise UnsafeFileFormat(
            f"file {path!r} is {_WORDS[content]} under the name of another format, and loading it "
            "could run code: convert the weights to safetensors",
            files=(path,),
        )
    if content in _WORDS and content not in (wanted, "empty"):
        raise WrongFormatError(
            path,
            "wrong_format",
            f"it is {_WORDS[content]}",
            expected=wanted,
            actual=content,
        )
