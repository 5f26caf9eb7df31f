"""Opening a download: going on with a partial that was left behind, or beginning a new one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gen_worker.models.fetch.blocks import Mark
from gen_worker.models.fetch.disk import preallocate
from gen_worker.models.fetch.download import Download
from gen_worker.models.fetch.journal import Header, decode_journal, encode_header, encode_mark
from gen_worker.models.fetch.partials import Partial, Place

if TYPE_CHECKING:
    from gen_worker.models.fetch.digests import Digest
    from gen_worker.models.fetch.values import FileToFetch

__all__ = ["open_download"]


def open_download(
    file: FileToFetch, digest: Digest, *, block_bytes: int, durable: bool, is_alone: bool
) -> Download | None:
    """Open a file's partial: one that was left behind, or a new one.

    Args:
        file: Of known size.
        digest: What it should hash to.
        block_bytes: For a new partial.
        durable: Whether it will be flushed to the disk.
        is_alone: Download even though a live process is at it too.

    Returns:
        None while another live process downloads the same file.

    Raises:
        OSError: The disk cannot hold it, or may not be written to.
    """
    place = Place(file.destination)
    os.makedirs(place.directory, exist_ok=True)
    if not is_alone and place.rivals():
        return None
    size = file.size_bytes
    assert size is not None
    header = Header(size_bytes=size, block_bytes=block_bytes, digest=str(digest))
    download = _adopted(place, header, digest, durable) or _adopted_plain(
        place, header, digest, durable
    )
    if download is not None:
        return download
    partial = place.create()
    if not is_alone and any(
        rival.identity < partial.identity for rival in place.rivals(besides=partial.identity)
    ):
        partial.remove()
        return None
    return _begun(partial, header, digest, durable)


def _begun(partial: Partial, header: Header, digest: Digest, durable: bool) -> Download:
    download = Download(partial, header, digest, durable=durable)
    try:
        preallocate(partial.fd, header.size_bytes)
        partial.append(encode_header(header))
    except OSError:
        partial.remove()
        raise
    return download


def _adopted(place: Place, header: Header, digest: Digest, durable: bool) -> Download | None:
    """Go on with a partial of this very file, if there is one."""
    partial = place.adopt()
    if partial is None:
        return None
    journal = decode_journal(partial.read_journal())
    found = journal.header if journal else header
    wanted = Header(
        size_bytes=header.size_bytes, block_bytes=found.block_bytes, digest=header.digest
    )
    is_whole = os.fstat(partial.fd).st_size == header.size_bytes
    # Without a digest nothing tells whether the source still has the same file.
    if journal is None or found != wanted or not is_whole or not digest.algorithm:
        partial.remove()
        return None
    download = Download(partial, found, digest, durable=durable)
    download.restore(journal.marks)
    return download


def _adopted_plain(place: Place, header: Header, digest: Digest, durable: bool) -> Download | None:
    """Go on with what an earlier program wrote from the start of the file."""
    partial = place.adopt_plain()
    if partial is None:
        return None
    size = os.fstat(partial.fd).st_size
    whole = (
        -(-size // header.block_bytes)
        if size == header.size_bytes
        else (size // header.block_bytes)
    )
    if size > header.size_bytes or not whole or not digest.algorithm:
        partial.remove()
        return None
    download = _begun(partial, header, digest, durable)
    marks = [Mark("claim", index, "") for index in range(whole)]
    partial.append(b"".join(map(encode_mark, marks)))
    download.restore(marks)
    return download
