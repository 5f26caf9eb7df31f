"""Models of Hugging Face: selected, fetched into the shared cache, verified, remembered."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.cancel import CancelToken
from gen_worker.errors import ArtifactTransferError, CanceledError, ModelResolutionError
from gen_worker.models.fetch.errors import disk_errors
from gen_worker.models.fetch.values import FileToFetch, Location
from gen_worker.models.net.errors import HttpStatusError
from gen_worker.models.overrides import RepoFacts
from gen_worker.models.refs import HFRef, identity
from gen_worker.models.sources.errors import DownloadFailedError, OfflineMissError, naming
from gen_worker.models.sources.facts import INDEX, class_named_in, local_facts
from gen_worker.models.sources.huggingface.cache import RepoCache, is_commit
from gen_worker.models.sources.huggingface.choosing import (
    LocalReader,
    RemoteReader,
    choose,
    shared_dtype,
)
from gen_worker.models.sources.huggingface.library import (
    LibraryCall,
    fetch_with_library,
    has_xet,
)
from gen_worker.models.sources.huggingface.remote import Remote, RemoteFile, refusal_of
from gen_worker.models.sources.last_known import last_known
from gen_worker.models.sources.resolutions import KnownFile, Resolved
from gen_worker.models.sources.room import require_room
from gen_worker.models.sources.tensorhub import offline_miss, plan_of
from gen_worker.models.sources.values import (
    FetchPlan,
    LocalModel,
    PlannedFile,
    key_of,
    load_path,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import ExitStack

    from gen_worker.models.choice import ModelChoice
    from gen_worker.models.sources.huggingface.options import HuggingFaceOptions
    from gen_worker.models.sources.huggingface.selection import Selection
    from gen_worker.models.sources.surroundings import Surroundings
    from gen_worker.models.sources.values import Request

__all__ = ["HuggingFaceModels"]

_MAIN = "main"


class _Plan(NamedTuple):
    """The files one choice means at one commit."""

    commit: str
    selection: Selection
    files: tuple[RemoteFile, ...]
    """Those selected, paths from the repository's root."""


class HuggingFaceModels:
    """The source of refs of Hugging Face. Thread-safe, blocking."""

    def __init__(self, around: Surroundings, options: HuggingFaceOptions) -> None:
        self._around = around
        self._options = options
        self._remote = Remote(around.opener, options.endpoint, options.known_token)

    def find(self, choice: ModelChoice) -> LocalModel | None:
        """Return the model if the cache has all of it."""
        known = self._remembered(choice)
        revision = _ref(choice).revision
        if known is not None and (not is_commit(revision) or known.digest == revision):
            return _local_model(choice, known)
        return self._found_in_cache(choice)

    def plan(self, request: Request) -> FetchPlan:
        """Return what would be fetched."""
        here = self._settled(request)
        if isinstance(here, LocalModel):
            return plan_of(here)
        plan, cache = self._planned(request, here), self._cache(request.choice)
        return FetchPlan(
            identity=identity(request.choice.target),
            provider="hf",
            ref=str(request.choice.target),
            digest=plan.commit,
            files=tuple(
                PlannedFile(file.path, file.size_bytes, _has_blob(cache, file))
                for file in plan.files
            ),
        )

    def hold(self, request: Request, stack: ExitStack) -> LocalModel:
        """Have the model in the cache; nothing of this worker removes it from there.

        Raises:
            ModelResolutionError: There is no such model, or none that is usable.
            ModelAccessError: It is gated or private.
            ArtifactTransferError: Its files could not be fetched.
            DiskFullError: There is no room.
        """
        here = self._settled(request)
        if isinstance(here, LocalModel):
            return here
        plan = self._planned(request, here)
        with naming(request.report.model_id, "hf"), self._around.downloads.hold(request.token):
            downloaded = self._fetched(request, plan)
        return self._kept(request.choice, plan, downloaded)

    def facts(self, request: Request) -> RepoFacts | None:
        """Return what a repository says of itself; None when it is not there for this caller."""
        choice, token = request.choice, request.token
        repo_id, revision = _ref(choice).repo_id, _ref(choice).revision
        if self._around.is_offline:
            here = self.find(choice)
            return None if here is None else local_facts(here)
        try:
            commit = self._remote.commit_of(repo_id, revision, token)
            paths = {file.path for file in self._remote.files_of(repo_id, commit, token)}
            with self._refusals(repo_id):
                has_index = INDEX in paths
                index = self._remote.document(repo_id, commit, INDEX, token) if has_index else None
        except ModelResolutionError as error:
            if error.retryable:
                raise
            return None
        return RepoFacts(pipeline_class=class_named_in(index))

    # What is here.

    def _settled(self, request: Request) -> LocalModel | str:
        """Return the model if it is here and cannot have changed, else its commit now."""
        choice = request.choice
        revision = _ref(choice).revision
        if self._around.is_offline:
            here = self.find(choice)
            if here is None:
                raise offline_miss(choice)
            return here
        if is_commit(revision):
            known = self._remembered(choice)
            is_same = known is not None and known.digest == revision
            return _local_model(choice, known) if known is not None and is_same else revision
        try:
            commit = self._remote.commit_of(_ref(choice).repo_id, revision, request.token)
        except OfflineMissError as error:
            here = self.find(choice)
            if here is None:
                raise offline_miss(choice) from error
            return here
        except ModelResolutionError as error:
            here = self.find(choice) if self._around.may_use_last_known else None
            return last_known(request, here, error)
        known = self._remembered(choice)
        if known is not None and known.digest == commit:
            self._cache(choice).note(revision or _MAIN, commit)
            return _local_model(choice, known)
        return commit

    def _remembered(self, choice: ModelChoice) -> Resolved | None:
        """Return what this worker verified itself, if all of it is still here."""
        known = self._around.known.get(_key(choice))
        if known is None or not is_commit(known.digest):
            return None
        root = self._cache(choice).snapshot(known.digest)
        return known if known.is_complete_in(root) else None

    def _found_in_cache(self, choice: ModelChoice) -> LocalModel | None:
        """Look at what other tools left: complete by the model's own account, or a miss."""
        cache = self._cache(choice)
        commit = cache.commit_of(_ref(choice).revision or _MAIN)
        if not commit or not os.path.isdir(cache.snapshot(commit)):
            return None
        sizes, root = dict(cache.files_of(commit)), cache.snapshot(commit)
        try:
            chosen = choose(choice, self._options, sizes, LocalReader(root), is_whole_cache=True)
        except (ArtifactTransferError, ValueError):
            return None
        return _local_model(choice, _resolved(choice, commit, root, chosen, sizes))

    # What is wanted.

    def _planned(self, request: Request, commit: str) -> _Plan:
        choice, token = request.choice, request.token
        repo_id = _ref(choice).repo_id
        files = {file.path: file for file in self._remote.files_of(repo_id, commit, token)}
        sizes = {path: file.size_bytes for path, file in files.items()}
        with self._refusals(repo_id):
            reader = RemoteReader(self._remote, repo_id, commit, token)
            selection = choose(choice, self._options, sizes, reader)
        return _Plan(commit, selection, tuple(files[path] for path in selection.files))

    # Fetching.

    def _fetched(self, request: Request, plan: _Plan) -> int:
        """Fetch the blobs that are not here; return the bytes that came over the network."""
        cache, repo_id = self._cache(request.choice), _ref(request.choice).repo_id
        distinct = {file.etag: file for file in plan.files}
        missing = [file for file in distinct.values() if not _has_blob(cache, file)]
        size = sum(file.size_bytes for file in missing)
        require_room(cache.directory, size, self._options.reserve_bytes)
        wanted = [
            FileToFetch(
                destination=cache.blob(file.etag),
                size_bytes=file.size_bytes,
                digest=file.digest,
                locations=(
                    Location(
                        self._remote.url(repo_id, plan.commit, file.path), self._remote.headers()
                    ),
                ),
            )
            for file in distinct.values()
        ]
        fetch = self._around.fetcher.fetch
        with self._refusals(repo_id), self._deadline(request) as token:
            if not missing:  # of other tools; checked once, before it is believed
                return fetch(wanted, token=token).bytes_fetched
            with request.report.running(size):
                try:
                    report = fetch(wanted, token=token, progress=request.report.progress)
                except ArtifactTransferError as error:
                    return self._rescued(request, plan, error, token) + (
                        fetch(wanted, token=token).bytes_fetched
                    )
                return report.bytes_fetched

    def _rescued(
        self, request: Request, plan: _Plan, error: ArtifactTransferError, token: CancelToken
    ) -> int:
        """Have the library fetch what plain HTTP did not bring; it is verified afterwards.

        Raises:
            ArtifactTransferError: `error`, when the library would fare no better.
        """
        cache, repo_id = self._cache(request.choice), _ref(request.choice).repo_id
        left = [file for file in plan.files if file.is_on_xet and not _has_blob(cache, file)]
        if not error.retryable or not left or not has_xet():
            raise error
        for file in left:
            call = LibraryCall(
                repo_id=repo_id,
                commit=plan.commit,
                path=file.path,
                home=self._options.home,
                endpoint=self._options.endpoint,
                token=self._options.known_token,
            )
            blobs = os.path.dirname(cache.blob(file.etag))
            fetch_with_library(call, blobs, stall_s=self._options.stall_timeout_s, token=token)
        return sum(file.size_bytes for file in left)

    @contextmanager
    def _deadline(self, request: Request) -> Iterator[CancelToken]:
        """Give a token that is also canceled when a download has taken as long as it may."""
        limit_s = self._options.max_seconds
        if not limit_s:
            yield request.token
            return
        token = CancelToken()
        late = threading.Event()

        def end() -> None:
            late.set()
            token.cancel("deadline")

        def follow() -> None:
            token.cancel()

        timer = threading.Timer(limit_s, end)
        timer.daemon = True
        request.token.on_cancel(follow)
        timer.start()
        try:
            yield token
        except CanceledError as error:
            request.token.raise_if_canceled()
            if not late.is_set():
                raise
            raise DownloadFailedError(
                f"model {request.report.model_id!r} was not here after {limit_s:g} s: try again, "
                "it goes on where it is, or raise COZY_HF_DOWNLOAD_MAX_SECONDS",
                provider="hf",
                phase="deadline",
                retryable=True,
            ) from error
        finally:
            timer.cancel()
            request.token.discard(follow)

    @contextmanager
    def _refusals(self, repo_id: str) -> Iterator[None]:
        try:
            yield
        except HttpStatusError as error:
            is_gated = b"gated" in error.body.lower() or b"awaiting" in error.body.lower()
            if error.status_code in (401, 403, 404):
                raise refusal_of(
                    repo_id, error.status_code, self._remote.has_token, is_gated=is_gated
                ) from error
            raise

    def _kept(self, choice: ModelChoice, plan: _Plan, downloaded: int) -> LocalModel:
        """Put the blobs under their names, and remember that everything is here."""
        cache = self._cache(choice)
        with disk_errors(cache.directory, 0):
            for file in plan.files:
                cache.link(plan.commit, file.path, file.etag)
            cache.note(_ref(choice).revision or _MAIN, plan.commit)
        sizes = {file.path: file.size_bytes for file in plan.files}
        root = cache.snapshot(plan.commit)
        resolved = _resolved(choice, plan.commit, root, plan.selection, sizes)
        self._around.known.put(resolved)
        model = _local_model(choice, resolved)
        return msgspec.structs.replace(
            model, bytes_downloaded=downloaded, was_cached=not downloaded
        )

    def _cache(self, choice: ModelChoice) -> RepoCache:
        return RepoCache(self._options.home, _ref(choice).repo_id)


def _ref(choice: ModelChoice) -> HFRef:
    ref = choice.target
    assert isinstance(ref, HFRef), "the provider's own"
    return ref


def _key(choice: ModelChoice) -> str:
    """Return the key of a choice; a flavor selects nothing here, so it makes no other tree."""
    return key_of(msgspec.structs.replace(choice, flavor="", ref=choice.ref.partition("#")[0]))


def _has_blob(cache: RepoCache, file: RemoteFile) -> bool:
    try:
        return os.stat(cache.blob(file.etag)).st_size == file.size_bytes
    except OSError:
        return False


def _resolved(
    choice: ModelChoice, commit: str, root: str, selection: Selection, sizes: Mapping[str, int]
) -> Resolved:
    """Return what is remembered of files that are all in `root`."""
    told = {
        "file_layout": selection.layout,
        "variant": selection.variant,
        "dtype": selection.dtype or shared_dtype(root, selection.files),
    }
    return Resolved(
        key=_key(choice),
        digest=commit,
        root=root,
        files=tuple(KnownFile(path, sizes[path]) for path in selection.files),
        attributes={name: value for name, value in told.items() if value},
    )


def _local_model(choice: ModelChoice, resolved: Resolved) -> LocalModel:
    files = tuple(file.path for file in resolved.files)
    return LocalModel(
        identity=identity(choice.target),
        provider="hf",
        ref=str(choice.target),
        path=load_path(resolved.root, files, choice.subfolder),
        root=resolved.root,
        digest=resolved.digest,
        files=files,
        size_bytes=sum(file.size_bytes for file in resolved.files),
        attributes=resolved.attributes,
    )
