"""What Civitai says of a model: its newest version, its files, their hashes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from gen_worker.errors import ArtifactTransferError
from gen_worker.models.sources.civitai.errors import CivitaiError, refusal_of
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.models.net.opener import Opener
    from gen_worker.models.refs import CivitaiRef

__all__ = ["Catalog", "CivitaiFile", "Version", "aliases_of"]

_MAX_JSON_BYTES = 16 * 1024 * 1024
_TRIES = 3
_PAUSE_S = 0.25
_TIMEOUT_S = 120.0
_RETRIED = frozenset({408, 425, 429})
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")
_HOSTS = ("", "www.", "api.", "image.")

_COMPONENTS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (place, re.compile(rf"(?:^|[^a-z0-9])(?:{words})(?=$|[^a-z0-9])", re.IGNORECASE))
    for place, words in (
        ("transformer/diffusion_pytorch_model.safetensors", "transformer|dit"),
        ("unet/diffusion_pytorch_model.safetensors", "unet"),
        ("vae/diffusion_pytorch_model.safetensors", "vae|ae"),
        ("text_encoder_2/model.safetensors", "text[_-]?encoder[_-]?2|t5(?:[_-]?xxl)?|clip[_-]?g"),
        ("text_encoder/model.safetensors", "text[_-]?encoder|clip(?:[_-]?l)?"),
    )
)


class CivitaiFile(NamedTuple):
    """One safetensors file of a version."""

    name: str
    url: str
    sha256: str
    size_bytes: int | None
    file_id: str = ""


class Version(NamedTuple):
    """One version of a model."""

    version_id: str
    files: tuple[CivitaiFile, ...]
    facts: Mapping[str, str]
    """What Civitai says of it, such as `base_model`."""


class Catalog:
    """Civitai, or a site that speaks its API. Thread-safe, blocking."""

    def __init__(self, opener: Opener, endpoint: str, token: str) -> None:
        self._opener = opener
        self._endpoint = endpoint.rstrip("/")
        self._token = token

    @property
    def has_token(self) -> bool:
        return bool(self._token)

    def newest(self, ref: CivitaiRef, token: CancelToken) -> str:
        """Return the id of a model's newest version.

        Raises:
            CivitaiError: There is no such model, or it has no version.
        """
        if ref.version_id:
            return ref.version_id
        record = self.model(ref.model_id, str(ref), token)
        versions = record.get("modelVersions")
        found = []
        for place, version in enumerate(versions if isinstance(versions, list) else ()):
            number = version.get("id") if isinstance(version, dict) else None
            if isinstance(number, int) and number > 0:
                index = version.get("index")
                found.append((index if isinstance(index, int) else place, -number))
        if found:
            return str(-min(found)[1])
        raise CivitaiError(
            f"model {str(ref)!r} of Civitai has no version", code="civitai_no_supported_files"
        )

    def version(self, version_id: str, ref: str, token: CancelToken) -> Version:
        """Return the files of one version.

        Raises:
            CivitaiError: It does not exist, or has no file that is loaded.
        """
        record = self.record(version_id, ref, token)
        entries = record.get("files")
        usable = [x for x in entries or () if isinstance(x, dict) and _is_usable(x)]
        if not usable:
            raise CivitaiError(
                f"version {version_id} of model {ref!r} on Civitai has no safetensors file: choose "
                "another version",
                code="civitai_no_supported_files",
            )
        usable.sort(key=lambda x: (not x.get("primary"), x.get("id", 0), x["name"]))
        files = tuple(self._file(entry, ref) for entry in usable)
        return Version(version_id, _with_names_of_their_own(files), _facts(record))

    def record(self, version_id: str, ref: str, token: CancelToken) -> dict[str, Any]:
        """Return all that Civitai says of one version."""
        return self._json(f"/api/v1/model-versions/{version_id}", ref, token)

    def model(self, model_id: str, ref: str, token: CancelToken) -> dict[str, Any]:
        """Return all that Civitai says of a model, such as what may be done with it."""
        return self._json(f"/api/v1/models/{model_id}", ref, token)

    def measured(self, file: CivitaiFile, ref: str, token: CancelToken) -> CivitaiFile:
        """Return a file with its exact size, asked from its server if need be."""
        if file.size_bytes is not None:
            return file
        headers = (*self.headers(file.url), ("Range", "bytes=0-0"))
        try:
            with self._opener.open(file.url, headers=headers, token=token) as answer:
                found = _TOTAL.fullmatch(answer.headers.get("content-range", ""))
                length = answer.length if answer.status == 200 else None
        except ArtifactTransferError as error:
            raise refusal_of(ref, error, has_token=self.has_token, while_fetching=True) from error
        return file._replace(size_bytes=int(found[1]) if found else length)

    def headers(self, url: str) -> tuple[tuple[str, str], ...]:
        """Return the key for a URL of Civitai's own; nothing for any other."""
        if not self._token or not self._is_own(url):
            return ()
        return (("Authorization", f"Bearer {self._token}"),)

    def _is_own(self, url: str) -> bool:
        own, asked = urlsplit(self._endpoint), urlsplit(url)
        if (asked.scheme, asked.netloc) == (own.scheme, own.netloc):
            return True
        domain = (own.hostname or "").removeprefix("www.")
        return asked.scheme == "https" and asked.netloc in {f"{x}{domain}" for x in _HOSTS}

    def _file(self, entry: Mapping[str, Any], ref: str) -> CivitaiFile:
        name, url = entry["name"], entry["downloadUrl"]
        hashes = entry.get("hashes")
        told = hashes.get("SHA256") if isinstance(hashes, dict) else None
        sha256 = told.lower() if isinstance(told, str) else ""
        if not _SHA256.fullmatch(sha256) or not self._is_own(url):
            raise CivitaiError(
                f"file {name!r:.120} of model {ref!r} on Civitai cannot be checked: it has no "
                "SHA256, or is kept elsewhere",
                code="civitai_download_failed",
            )
        size = entry.get("sizeBytes")
        exact = size if isinstance(size, int) and size > 0 else None
        file_id = str(entry.get("id") or "")
        return CivitaiFile(safe_join("", name.rpartition("/")[2]), url, sha256, exact, file_id)

    def _json(self, path: str, ref: str, token: CancelToken) -> dict[str, Any]:
        url = f"{self._endpoint}{path}"
        for attempt in range(1, _TRIES + 1):
            try:
                with self._opener.open(
                    url,
                    headers=self.headers(url),
                    token=token,
                    max_bytes=_MAX_JSON_BYTES,
                    within_s=_TIMEOUT_S,
                ) as answer:
                    return _record(answer.read(), ref)
            except CivitaiError:
                raise
            except ArtifactTransferError as error:
                if not _is_worth_another_try(error) or attempt == _TRIES:
                    raise refusal_of(
                        ref, error, has_token=self.has_token, while_fetching=False
                    ) from error
            if token.wait(_PAUSE_S * attempt):
                token.raise_if_canceled()
        raise AssertionError("the last attempt returns or raises")


def _is_worth_another_try(error: ArtifactTransferError) -> bool:
    status = error.status_code
    return error.retryable if status is None else status in _RETRIED or status >= 500


def _record(data: bytes, ref: str) -> dict[str, Any]:
    try:
        record = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise CivitaiError(
            f"Civitai's answer about model {ref!r} is no JSON object", code="civitai_fetch_failed"
        )
    return record


def _is_usable(entry: Mapping[str, Any]) -> bool:
    name, url = entry.get("name"), entry.get("downloadUrl")
    is_named = isinstance(name, str) and name.lower().endswith(".safetensors")
    return is_named and isinstance(url, str) and bool(url)


def _with_names_of_their_own(files: tuple[CivitaiFile, ...]) -> tuple[CivitaiFile, ...]:
    """Rename files whose name an earlier one has: by their hash, which never changes."""
    seen: set[str] = set()
    renamed = []
    for file in files:
        if file.name.casefold() in seen:
            file = file._replace(name=f"{file.sha256[:12]}-{file.name}")
        seen.add(file.name.casefold())
        renamed.append(file)
    return tuple(renamed)


def _facts(record: Mapping[str, Any]) -> dict[str, str]:
    names = {"modelId": "model_id", "baseModel": "base_model", "baseModelType": "base_model_type"}
    told = {new: record.get(old) for old, new in (names | {"air": "air"}).items()}
    return {name: str(value) for name, value in told.items() if isinstance(value, (str, int))}


def aliases_of(names: tuple[str, ...]) -> dict[str, str]:
    """Return where a pipeline would look for files that look like its components."""
    found: dict[str, str] = {}
    for name in names if len(names) > 1 else ():
        stem = name.rpartition(".")[0]
        place = next((place for place, words in _COMPONENTS if words.search(stem)), "")
        if place and place not in found:
            found[place] = name
    return found
