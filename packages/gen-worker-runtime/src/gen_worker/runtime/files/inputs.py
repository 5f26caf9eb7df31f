"""Input files of requests: fetched from where the caller says, checked, kept for the next one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import quote

from gen_worker.context.local_stream import write_error
from gen_worker.errors import AuthError, ValidationError
from gen_worker.paths import safe_join
from gen_worker.runtime.files.blobs import blob_name, fetch_blob
from gen_worker.runtime.files.cache import InputCache
from gen_worker.runtime.files.described import Known, described
from gen_worker.runtime.files.download import USER_AGENT, Asked, Downloader
from gen_worker.runtime.files.entries import entry_of, is_current, key_of, renewed
from gen_worker.runtime.files.input_checks import check_size
from gen_worker.runtime.files.kept import kept_file
from gen_worker.runtime.files.naming import scheme_of, suffix_of

if TYPE_CHECKING:
    from gen_worker.context.local import LocalOutputs
    from gen_worker.models.net import Opener, Url
    from gen_worker.ports import FileLimits
    from gen_worker.runtime.files.cache import Entry
    from gen_worker.runtime.files.limits import FilePolicy
    from gen_worker.runtime.files.requests import Request
    from gen_worker.types import Asset, Tensors

    F = TypeVar("F", Asset, Tensors)

__all__ = ["Inputs"]

_FOLDER = "inputs"
_TAKE_TOKENS_IN_THE_QUERY = ("civitai.com", "civitai.green", "civitai.red")


class _Source(NamedTuple):
    """Where one file comes from."""

    asked: Asked
    downloader: Downloader
    key: str = ""
    """Under which the cache keeps it; empty does not."""
    suffix: str = ""
    """What its name ends in, as far as its ref says."""
    media_type: str = ""
    """What its server calls it, where that was asked before."""


class Inputs:
    """Thread-safe, blocking."""

    def __init__(self, policy: FilePolicy, kept: LocalOutputs | None) -> None:
        """Say how; nothing is opened yet.

        Args:
            policy: Limits and places.
            kept: Outputs on this machine, which requests without a hub may take in again.
        """
        self._policy = policy
        self._kept = kept
        self._cache = InputCache(policy.cache_path, policy.cache_bytes)
        self._openers: dict[str, Opener] = {}

    def close(self) -> None:
        for opener in self._openers.values():
            opener.close()

    def materialize(self, request: Request, value: F, limits: FileLimits) -> F:
        """Bring a file here; see the `Files` port."""
        inline = getattr(value, "inline_bytes", None)
        if inline is not None:
            return self._inline(request, value, inline, limits)
        digest = getattr(value, "blob_digest", None)
        if digest:
            return self._blob(request, value, str(digest), limits)
        if not value.ref:
            return value  # an empty default, not a file
        scheme = scheme_of(value.ref)
        if not scheme:
            return self._stored(request, value, limits)
        if scheme not in ("http", "https"):
            raise ValidationError(
                f"a file with the scheme {scheme!r:.40} is refused: give an http or https URL"
            )
        return self._from_url(request, value, limits)

    # Bytes in the payload

    def _inline(self, request: Request, value: F, content: bytes, limits: FileLimits) -> F:
        check_size(len(content), limits, "inline file")
        path = request.new_path(_FOLDER, suffix_of(value.ref))
        try:
            with open(path, "xb") as file:
                file.write(content)
        except OSError as error:
            raise write_error("an inline file", error) from error
        return described(value, path, limits, Known(usual_pixels=self._policy.max_input_pixels))

    # URLs

    def _from_url(self, request: Request, value: F, limits: FileLimits) -> F:
        url = _parsed(value.ref)
        token = (value.download_token or "").strip()
        full = url.full
        headers: tuple[tuple[str, str], ...] = ()
        if token and _is_below(url.host, _TAKE_TOKENS_IN_THE_QUERY):
            full += ("&" if "?" in url.target else "?") + "token=" + quote(token, safe="")
        elif token:
            headers = (("Authorization", f"Bearer {token}"),)
        context = getattr(value, "url_validation_context", None) or ""
        source = _Source(
            Asked(full, str(url), limits.max_bytes, headers),
            # Callers' URLs: nothing but what the operator trusts may have a private address.
            Downloader(self._opener(), self._policy),
            key_of(url.full, token, context),
            suffix_of(url.target.partition("?")[0]),
        )
        known = self._cache.find(source.key)
        if known is not None and is_current(known, value.sha256):
            found = self._from_cache(request, value, limits, source, known)
            if found is not None:
                return found
            known = None
        return self._asked_for(request, value, limits, source, known)

    def _asked_for(
        self, request: Request, value: F, limits: FileLimits, source: _Source, known: Entry | None
    ) -> F:
        """Ask for a file, which the server need not send if `known` is still right."""
        if known is not None and known.conditions:
            path = request.new_path(_FOLDER, source.suffix)
            answer = source.downloader.fetch(
                source.asked, path, request.token, conditions=known.conditions
            )
            if not answer.is_unchanged:
                return self._arrived(value, path, limits, source, entry_of(answer))
            found = self._from_cache(request, value, limits, source, known)
            if found is not None:
                self._cache.renew(source.key, renewed(known, answer))
                return found
        return self._fetched(request, value, limits, source)

    def _fetched(self, request: Request, value: F, limits: FileLimits, source: _Source) -> F:
        path = request.new_path(_FOLDER, source.suffix)
        answer = source.downloader.fetch(source.asked, path, request.token)
        return self._arrived(value, path, limits, source, entry_of(answer))

    def _arrived(self, value: F, path: str, limits: FileLimits, source: _Source, entry: Entry) -> F:
        """Check a file that was downloaded, and keep it for others."""
        if not source.suffix and entry.suffix:
            path, bare = path + entry.suffix, path
            os.rename(bare, path)
        found = self._checked(value, path, limits, source, entry)
        if source.key and entry.may_be_kept:
            self._cache.add(source.key, path, entry)
        return found

    def _from_cache(
        self, request: Request, value: F, limits: FileLimits, source: _Source, entry: Entry
    ) -> F | None:
        """Use what is kept; None when it is gone meanwhile."""
        check_size(entry.size_bytes, limits, "input file")
        path = request.new_path(_FOLDER, source.suffix or entry.suffix)
        if not self._cache.take(source.key, entry, path):
            return None
        return self._checked(value, path, limits, source, entry)

    def _checked(self, value: F, path: str, limits: FileLimits, source: _Source, entry: Entry) -> F:
        known = Known(
            name=source.asked.shown + ("" if source.suffix else entry.suffix),
            media_type=source.media_type or entry.media_type,
            digests={"sha256": entry.sha256, "blake3": entry.blake3},
            usual_pixels=self._policy.max_input_pixels,
        )
        return described(value, path, limits, known)

    # Files of the hub

    def _stored(self, request: Request, value: F, limits: FileLimits) -> F:
        """Fetch a file by its ref, which the hub lets this job read or not."""
        scope = request.scope
        path = safe_join("", value.ref)
        if not scope.has_hub:
            return described(value, self._kept_path(value.ref), limits)
        asked = Asked(scope.file_url(path), value.ref, limits.max_bytes, scope.credentials)
        downloader = Downloader(self._opener(scope.base_url), self._policy)
        headers = downloader.ask(asked, request.token)
        size, sha256 = (headers.get(f"x-cozy-{name}", "") for name in ("size-bytes", "sha256"))
        if size.isdecimal():
            check_size(int(size), limits, "input file")
        # What may be read was asked just now, so that the content alone decides from here on.
        source = _Source(
            asked._replace(sha256=sha256.lower()),
            downloader,
            key_of("sha256", sha256.lower()) if sha256 else "",
            suffix_of(path),
            headers.get("x-cozy-mime-type", ""),
        )
        known = self._cache.find(source.key) if source.key else None
        found = None
        if known is not None:
            found = self._from_cache(request, value, limits, source, known)
        if found is None:
            found = self._fetched(request, value, limits, source)
        found.owner = found.owner or scope.owner or None
        return found

    def _kept_path(self, ref: str) -> str:
        """Return an output of another request, where outputs stay on this machine."""
        path = None if self._kept is None else kept_file(self._kept, ref)
        if path is not None:
            return path
        if self._kept is not None:
            raise ValidationError(
                f"file {ref!r} is none that was stored here: upload it, or send its URL or content"
            )
        raise AuthError(
            f"file {ref!r} is no URL, and the request names no hub that has it: send an http(s) "
            "URL, or set FILE_API_BASE_URL and WORKER_CAPABILITY_TOKEN"
        )

    def _blob(self, request: Request, value: F, digest: str, limits: FileLimits) -> F:
        """Fetch a blob, which the hub lets this job read or not; it may be here already."""
        name, scope = blob_name(digest), request.scope
        if not scope.has_hub:
            if self._kept is None:
                raise AuthError(f"blob {name} cannot be had: the request names no hub")
            from gen_worker.models.assembly import open_store

            return described(value, open_store(self._policy.cas_dir).blob(name), limits)
        path = request.new_path(_FOLDER, suffix_of(value.ref))
        asked = Asked(scope.blob_url(name), name, limits.max_bytes, scope.credentials)
        opener = self._opener(scope.base_url)
        fetch_blob(
            asked, path, request.token, opener=opener, policy=self._policy, client=request.client()
        )
        algorithm, _, digits = name.partition(":")
        known = None if value.sha256 or value.blake3 else {algorithm: digits}
        return described(value, path, limits, Known(name=value.ref or name, digests=known))

    def _opener(self, hub: str = "") -> Opener:
        """Return what opens callers' URLs, or those of one hub, which may be anywhere."""
        opener = self._openers.get(hub)
        if opener is None:
            from gen_worker.models.net import Opener

            trusted = (*self._policy.trusted_urls, hub) if hub else self._policy.trusted_urls
            opener = Opener(
                trusted=trusted,
                user_agent=USER_AGENT,
                connect_timeout_s=self._policy.connect_timeout_s,
                read_timeout_s=self._policy.read_timeout_s,
            )
            opener = self._openers.setdefault(hub, opener)
        return opener


def _parsed(ref: str) -> Url:
    from gen_worker.models.net import UrlRefusedError, parse_url

    try:
        return parse_url(ref)
    except UrlRefusedError as error:
        raise ValidationError(f"the URL of a file is refused: {error}") from error


def _is_below(host: str, domains: tuple[str, ...]) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)
