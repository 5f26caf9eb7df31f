"""What Hugging Face says of a repository: its commit, its files, and the beginning of some."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from gen_worker.errors import ArtifactTransferError, ModelResolutionError
from gen_worker.models.sources.errors import ModelAccessError, OfflineMissError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.models.net.opener import Opener

__all__ = ["Remote", "RemoteFile", "dtypes_in", "refusal_of"]

T = TypeVar("T")

_FIRST_BYTES = 64 * 1024
_MAX_HEADER_BYTES = 32 * 1024 * 1024
_MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
_PAUSES_S = (0.25, 1.0)


class RemoteFile(NamedTuple):
    """One file of a commit."""

    path: str
    size_bytes: int
    etag: str
    """Its name in the cache: the sha256 of a large file, the git hash of a small one."""
    is_large: bool
    is_on_xet: bool = False
    """Whether the library can fetch it in another way than plain HTTP."""

    @property
    def digest(self) -> str:
        return f"sha256:{self.etag}" if self.is_large else f"git-sha1:{self.etag}"


class Remote:
    """One site that speaks the API of Hugging Face. Thread-safe, blocking."""

    def __init__(self, opener: Opener, endpoint: str, token: str) -> None:
        """Bind.

        Args:
            opener: For the contents of files.
            endpoint: Of the site; empty is the library's own choice.
            token: Sent to that site, and nowhere else; empty sends none.
        """
        self._opener = opener
        self._endpoint = endpoint.rstrip("/")
        self._token = token
        self._api: Any = None

    @property
    def has_token(self) -> bool:
        return bool(self._token)

    def commit_of(self, repo_id: str, revision: str, token: CancelToken) -> str:
        """Return the commit a revision means; empty means the main branch."""
        info = self._asked(
            repo_id, token, lambda api: api.model_info(repo_id, revision=revision or None)
        )
        return str(info.sha or "")

    def files_of(self, repo_id: str, commit: str, token: CancelToken) -> tuple[RemoteFile, ...]:
        """List the files of a commit with sizes and hashes."""

        def listed(api: Any) -> tuple[RemoteFile, ...]:
            tree = api.list_repo_tree(repo_id, recursive=True, revision=commit)
            return tuple(_file(entry) for entry in tree if hasattr(entry, "blob_id"))

        return self._asked(repo_id, token, listed)

    def url(self, repo_id: str, commit: str, path: str) -> str:
        return f"{self._site()}/{repo_id}/resolve/{commit}/{quote(path)}"

    def headers(self) -> tuple[tuple[str, str], ...]:
        return (("Authorization", f"Bearer {self._token}"),) if self._token else ()

    def content(self, repo_id: str, commit: str, path: str, token: CancelToken) -> bytes:
        """Return a small file."""
        url = self.url(repo_id, commit, path)
        with self._opener.open(
            url, headers=self.headers(), token=token, max_bytes=_MAX_DOCUMENT_BYTES
        ) as answer:
            return answer.read()

    def document(self, repo_id: str, commit: str, path: str, token: CancelToken) -> Any:
        """Return a file of JSON, decoded; None when it is none."""
        return decoded(self.content(repo_id, commit, path, token))

    def dtypes(
        self, repo_id: str, commit: str, path: str, token: CancelToken
    ) -> frozenset[str] | None:
        """Return the dtypes of a safetensors file by its header alone; None when unreadable."""
        header = self.header(repo_id, commit, path, token)
        return None if header is None else _dtypes_of(header)

    def header(
        self, repo_id: str, commit: str, path: str, token: CancelToken
    ) -> dict[str, Any] | None:
        """Return the header of a safetensors file, decoded; None when it is unreadable."""
        url = self.url(repo_id, commit, path)

        def read(start: int, count: int) -> bytes:
            span = ("Range", f"bytes={start}-{start + count - 1}")
            with self._opener.open(url, headers=(*self.headers(), span), token=token) as answer:
                if answer.status == 206 or not start:
                    return answer.read(count)
                answer.read(start)  # the server sends whole files only
                return answer.read(count)

        try:
            return _header_in(read)
        except ArtifactTransferError:  # then other marks decide
            return None

    def _site(self) -> str:
        if not self._endpoint:
            self._endpoint = str(self._client().endpoint).rstrip("/")
        return self._endpoint

    def _client(self) -> Any:
        if self._api is None:
            try:
                from huggingface_hub import HfApi
            except ImportError as error:
                raise ModelResolutionError(
                    "models of Hugging Face need the huggingface-hub library: install "
                    '"gen-worker-models[hf]"',
                    provider="hf",
                    phase="resolve",
                ) from error
            self._api = HfApi(endpoint=self._endpoint or None, token=self._token or False)
        return self._api

    def _asked(self, repo_id: str, token: CancelToken, ask: Callable[[Any], T]) -> T:
        """Ask the site; again after a while when it is busy."""
        api = self._client()
        for pause_s in (*_PAUSES_S, None):
            token.raise_if_canceled()
            try:
                with _translated(repo_id, self):
                    return ask(api)
            except ModelResolutionError as error:
                if not error.retryable or pause_s is None:
                    raise
            token.wait(pause_s)
        raise AssertionError("the last attempt returns or raises")


def dtypes_in(read: Callable[[int, int], bytes]) -> frozenset[str] | None:
    """Return the dtypes of a safetensors file; `read` gives bytes at an offset."""
    header = _header_in(read)
    return None if header is None else _dtypes_of(header)


def _header_in(read: Callable[[int, int], bytes]) -> dict[str, Any] | None:
    data = read(0, _FIRST_BYTES)
    if len(data) < 8:
        return None
    (size,) = struct.unpack("<Q", data[:8])
    if not 0 < size <= _MAX_HEADER_BYTES:
        return None
    data = data[8:]
    if len(data) < size:
        data += read(8 + len(data), size - len(data))
    header = decoded(data[:size])
    return header if isinstance(header, dict) else None


def _dtypes_of(header: Mapping[str, Any]) -> frozenset[str] | None:
    tensors = [header[name] for name in header if name != "__metadata__"]
    told = {entry.get("dtype") for entry in tensors if isinstance(entry, dict)}
    return frozenset(dtype for dtype in told if isinstance(dtype, str)) or None


def decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _file(entry: Any) -> RemoteFile:
    lfs = entry.lfs
    size = lfs.size if lfs is not None else entry.size
    if not isinstance(size, int) or size < 0:
        raise ModelResolutionError(
            f"Hugging Face tells no size of {entry.path!r}, so it is not known what fits",
            provider="hf",
            phase="resolve",
        )
    etag = lfs.sha256 if lfs is not None else entry.blob_id
    is_on_xet = bool(getattr(entry, "xet_hash", None))
    return RemoteFile(entry.path, size, str(etag), lfs is not None, is_on_xet)


@contextmanager
def _translated(repo_id: str, remote: Remote) -> Iterator[None]:
    """Turn the library's errors into ours."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise OfflineMissError(
            f"model {repo_id!r} is not asked for: HF_HUB_OFFLINE is set", ref=repo_id, provider="hf"
        ) from error
    except errors.GatedRepoError as error:
        raise refusal_of(repo_id, 403, remote.has_token, is_gated=True) from error
    except errors.RevisionNotFoundError as error:
        raise ModelResolutionError(
            f"model {repo_id!r} has no such revision: check the branch, tag or commit",
            provider="hf",
            phase="resolve",
            status_code=404,
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        raise refusal_of(repo_id, status, remote.has_token) from error
    except httpx2.HTTPError as error:
        raise ModelResolutionError(
            f"Hugging Face cannot be asked for model {repo_id!r}: check the network",
            provider="hf",
            phase="resolve",
            retryable=True,
            cause_type=type(error).__name__,
        ) from error
    except errors.HFValidationError as error:
        raise ModelResolutionError(
            f"{repo_id!r} is no name of a repository on Hugging Face", provider="hf"
        ) from error


def refusal_of(
    repo_id: str, status: int, has_token: bool, *, is_gated: bool = False
) -> ModelResolutionError:
    """Return what a refusal means, and what to do about it."""
    if is_gated:
        first = "" if has_token else ", and set HF_TOKEN"
        return ModelAccessError(
            f"model {repo_id!r} is gated: accept its conditions on its page with the account of "
            f"your token{first}",
            provider="hf",
            status_code=status,
        )
    if status in (401, 403):
        remedy = (
            "use an HF_TOKEN that may read it" if has_token else "set HF_TOKEN, if it is private"
        )
        return ModelAccessError(
            f"Hugging Face refuses model {repo_id!r} with {status}: check the name, or {remedy}",
            provider="hf",
            status_code=status,
        )
    if status in (404, 410):
        remedy = "" if has_token else ", or set HF_TOKEN if it is private"
        return ModelResolutionError(
            f"model {repo_id!r} is not on Hugging Face: check the name{remedy}",
            provider="hf",
            phase="resolve",
            status_code=status,
        )
    return ModelResolutionError(
        f"Hugging Face cannot answer for model {repo_id!r} now: try again",
        provider="hf",
        phase="resolve",
        retryable=status == 429 or status >= 500 or not status,
        status_code=status or None,
    )
