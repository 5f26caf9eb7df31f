"""Inputs at URLs, fetched once into a job's own directory, and kept for its next attempt."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ArtifactTransferError, AuthError, ValidationError
from gen_worker.models.fetch import Fetcher, FileToFetch, Location
from gen_worker.models.net import HttpStatusError, Opener, parse_url
from gen_worker.paths import safe_join
from gen_worker.trainer.checkpoints.values import StoredFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.trainer.inputs.names import UrlInput

__all__ = ["Downloads"]

_TIMEOUT_S = 60.0
_REFUSED = (401, 403)


class Downloads:
    """Fetches files from URLs, going on where it was broken off. Not thread-safe."""

    def __init__(
        self,
        root: str,
        *,
        hub_url: str,
        hub_token: str,
        allow_private: bool,
        cancel: CancelToken | None,
    ) -> None:
        """Bind; nothing is opened yet.

        Args:
            root: Everything is written below it.
            hub_url: The only place that is sent the token.
            hub_token: Empty without one.
            allow_private: Whether URLs may lead to addresses that are not public.
            cancel: Ends a fetch.
        """
        self._root = root
        self._hub_origin = parse_url(hub_url).origin if hub_url else ""
        self._token = hub_token
        self._cancel = cancel
        self._opener = Opener(
            trusted=(hub_url,) if hub_url else (),
            allow_private=allow_private,
            connect_timeout_s=_TIMEOUT_S,
            read_timeout_s=_TIMEOUT_S,
        )
        self._fetcher = Fetcher(self._opener)

    def close(self) -> None:
        self._opener.close()

    def fetch(self, kind: str, inputs: Sequence[UrlInput]) -> list[str]:
        """Have files below `<root>/<kind>`; return their paths, in order.

        A file whose digest is known is looked at again; any other that is there is taken as it is.

        Raises:
            AuthError: The hub refuses the token.
            ArtifactTransferError: One cannot be fetched.
        """
        paths = [os.path.join(self._root, kind, one.key, one.name) for one in inputs]
        wanted = dict(zip(paths, inputs, strict=True))
        self._fetch(
            [
                self._file(path, one.url, one.digest)
                for path, one in wanted.items()
                if one.digest or not os.path.exists(path)
            ]
        )
        return paths

    def fetch_checkpoint(self, one: UrlInput) -> str:
        """Have a checkpoint's JSON and, beside it, all the files that it lists.

        The files are looked for where a checkpoint's directory has them: beside the JSON under its
        stem, or around a `checkpoint.json`.

        Raises:
            ValidationError: It is no checkpoint.
            ArtifactTransferError: One cannot be fetched.
        """
        (path,) = self.fetch("resume", [one])
        with open(path, "rb") as file:
            body = file.read()
        try:
            files = msgspec.json.decode(body, type=_Listed).files
        except msgspec.MsgspecError as error:
            raise ValidationError(f"it is no checkpoint: {error}") from error
        if not files:
            return path
        address, mark, query = one.url.partition("?")
        is_inside = address.endswith("/checkpoint.json")
        base = address.rpartition("/")[0] if is_inside else address.removesuffix(".json")
        directory = path.removesuffix(".json")
        if directory == path:
            raise ValidationError("the JSON of a checkpoint with files ends in .json")
        self._fetch(
            [
                self._file(
                    safe_join(directory, name),
                    f"{base}/{name}{mark}{query}",
                    f"blake3:{stored.blake3}",
                    stored.size_bytes,
                )
                for name, stored in files.items()
            ]
        )
        return path

    def _fetch(self, files: Sequence[FileToFetch]) -> None:
        try:
            self._fetcher.fetch(files, token=self._cancel)
        except HttpStatusError as error:
            asked_hub = any(self._headers(one.locations[0].url) for one in files)
            if error.status_code in _REFUSED and asked_hub:
                raise AuthError(f"the hub refuses the token: {error.args[0]}") from error
            raise

    def _file(
        self, destination: str, url: str, digest: str, size_bytes: int | None = None
    ) -> FileToFetch:
        headers = self._headers(url)
        return FileToFetch(
            destination=destination,
            locations=(Location(url, headers),),
            size_bytes=self._size(url, headers) if size_bytes is None else size_bytes,
            digest=digest,
        )

    def _headers(self, url: str) -> tuple[tuple[str, str], ...]:
        if not self._token or parse_url(url).origin != self._hub_origin:
            return ()
        return (("authorization", f"Bearer {self._token}"),)

    def _size(self, url: str, headers: tuple[tuple[str, str], ...]) -> int | None:
        """Ask for the first byte: a signed URL is good for GET alone, so HEAD would not do."""
        asked = (*headers, ("range", "bytes=0-0"))
        try:
            with self._opener.open(url, headers=asked, token=self._cancel) as response:
                if response.status != 206:
                    return response.length
                total = response.headers.get("content-range", "").rpartition("/")[2]
                return int(total) if total.isdecimal() else None
        except ArtifactTransferError as error:
            if error.retryable or error.status_code == 416:  # an empty file has no first byte
                return None
            if isinstance(error, HttpStatusError) and error.status_code in _REFUSED and headers:
                raise AuthError(f"the hub refuses the token: {error.args[0]}") from error
            raise


class _Listed(msgspec.Struct):
    """What of a checkpoint's JSON says which files it has."""

    state: dict[str, Any]
    files: dict[str, StoredFile] = {}
