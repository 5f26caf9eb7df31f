"""The scheduler's HTTP API, for commands: a question, its answer, and what to do when it fails.

What a URL is and what a refusal says is read as `gen_worker.client` does. Its transport is not
used: to import httpx takes longer than a whole command, and `gen-worker up` waits for its answers.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from gen_worker.cli.failures import UsageError
from gen_worker.client.addresses import base_url_of
from gen_worker.client.errors import error_of_refusal
from gen_worker.errors import ValidationError, WorkerError

if TYPE_CHECKING:
    import argparse

__all__ = ["Api", "ApiError", "NoPlatformError", "find_api"]

_TIMEOUT_S = 60.0
_ENCODER = msgspec.json.Encoder(enc_hook=str)


class ApiError(WorkerError):
    """The platform has refused; the message is its own."""

    def __init__(self, message: str, *, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class NoPlatformError(WorkerError, ConnectionError):
    """Nobody answers there."""


class Api:
    """Asks one scheduler; each question has a connection of its own. For any thread."""

    def __init__(self, url: str, token: str = "", *, timeout_s: float = _TIMEOUT_S) -> None:
        """Name the scheduler.

        Args:
            url: Such as `http://127.0.0.1:8787`.
            token: For those that listen beyond loopback.
            timeout_s: That one answer may take.

        Raises:
            UsageError: It is no URL.
        """
        try:
            self.url = base_url_of(url)
        except ValidationError as error:
            raise UsageError(str(error)) from error
        parts = urlsplit(self.url)
        self._scheme, self._path = parts.scheme, parts.path
        self._host, self._port = parts.hostname or "", parts.port
        self.token = token
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._timeout_s = timeout_s

    def get(self, path: str, **query: object) -> Any:
        return self._ask("GET", path, query)

    def delete(self, path: str, **query: object) -> Any:
        return self._ask("DELETE", path, query)

    def post(self, path: str, body: object = None, **query: object) -> Any:
        data = _ENCODER.encode({} if body is None else body)
        return self._ask("POST", path, query, data, {"content-type": "application/json"})

    def upload(self, path: str, file: BinaryIO, size_bytes: int, **query: object) -> Any:
        """Send a file as the body."""
        headers = {"content-type": "application/x-tar", "content-length": str(size_bytes)}
        return self._ask("POST", path, query, file, headers)

    def _ask(
        self,
        method: str,
        path: str,
        query: dict[str, object],
        body: bytes | BinaryIO | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        asked = {name: str(value) for name, value in query.items() if value not in (None, "")}
        target = f"{self._path}{quote(path)}{'?' + urlencode(asked) if asked else ''}"
        connection = self._connection()
        try:
            connection.request(method, target, body, {**self._headers, **(headers or {})})
            answer = connection.getresponse()
            return _read(answer.status, answer.read())
        except (OSError, http.client.HTTPException) as error:
            raise NoPlatformError(
                f"nobody answers at {self.url} ({error or type(error).__name__}): start it with "
                "`gen-worker up`, or name another one with --url"
            ) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._scheme == "https" else None
        return (kind or http.client.HTTPConnection)(self._host, self._port, timeout=self._timeout_s)


def _read(status: int, body: bytes) -> Any:
    try:
        document = msgspec.json.decode(body) if body else None
    except (msgspec.DecodeError, UnicodeError):
        document = None
    if status < 400:
        return document
    raise _refusal(status, document)


def _refusal(status: int, document: Any) -> ApiError:
    refusal = error_of_refusal(document, status)
    message = str(refusal)
    if status in (401, 403):
        message += ": set GEN_WORKER_TOKEN to a token of that platform"
    return ApiError(message, status=status, code=refusal.code)


def find_api(args: argparse.Namespace) -> Api:
    """Return the platform that the options, the surroundings or the data folder name.

    Raises:
        UsageError: None runs here, and none is named.
    """
    from gen_worker.cli.platform.folder import DataFolder
    from gen_worker.cli.settings import CliSettings
    from gen_worker.settings import load

    settings = load(CliSettings)
    named = args.url or ("" if args.data else settings.platform_url)
    if named:
        return Api(named, settings.platform_token)
    folder = DataFolder(args.data)
    announced = folder.scheduler().get("http")
    if not isinstance(announced, str) or not announced:
        raise UsageError(
            f"no platform runs on {folder.path!r}: start one with `gen-worker up`, or name one "
            "with --url"
        )
    return Api(announced, settings.platform_token or folder.token())
