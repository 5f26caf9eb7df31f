"""Models of Civitai: fetched into the content store's own folder for them."""

from __future__ import annotations

import hashlib
import os
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import ArtifactTransferError, ModelResolutionError
from gen_worker.models.fetch.errors import disk_errors
from gen_worker.models.fetch.values import FileToFetch, Location
from gen_worker.models.formats.unsafe import assert_loadable
from gen_worker.models.overrides import RepoFacts
from gen_worker.models.refs import CivitaiRef, identity
from gen_worker.models.sources.civitai.catalog import Catalog, aliases_of
from gen_worker.models.sources.civitai.errors import CivitaiError, refusal_of
from gen_worker.models.sources.last_known import last_known
from gen_worker.models.sources.replacing import link
from gen_worker.models.sources.resolutions import KnownFile, Resolved
from gen_worker.models.sources.tensorhub import offline_miss, plan_of
from gen_worker.models.sources.values import FetchPlan, LocalModel, PlannedFile, key_of
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from gen_worker.models.choice import ModelChoice
    from gen_worker.models.sources.civitai.catalog import CivitaiFile, Version
    from gen_worker.models.sources.surroundings import Surroundings
    from gen_worker.models.sources.values import Request

__all__ = ["CivitaiModels"]

_MAX_FILE_BYTES = 20 * 1024**3


class CivitaiModels:
    """The source of refs of Civitai. Thread-safe, blocking."""

    def __init__(self, around: Surroundings, endpoint: str, token: str) -> None:
        self._around = around
        self._catalog = Catalog(around.opener, endpoint, token)

    def find(self, choice: ModelChoice) -> LocalModel | None:
        """Return the model if all of it is here, as far as this machine knows."""
        known = self._around.known.get(key_of(choice))
        if known is None or not known.is_complete_in(self._root(known.digest)):
            return None
        return _local_model(choice, known)

    def plan(self, request: Request) -> FetchPlan:
        """Return what would be fetched."""
        here = self._settled(request)
        if isinstance(here, LocalModel):
            return plan_of(here)
        version = self._measured(request, here)
        root = self._root(version.version_id)
        return FetchPlan(
            identity=identity(request.choice.target),
            provider="civitai",
            ref=str(request.choice.target),
            digest=version.version_id,
            files=tuple(
                PlannedFile(file.name, file.size_bytes or 0, _is_here(root, file))
                for file in version.files
            ),
        )

    def hold(self, request: Request, stack: ExitStack) -> LocalModel:
        """Have the model here; it is not evicted.

        Raises:
            CivitaiError: It cannot be had; `code` says why.
            CivitaiAccessError: Not with this key.
            ResourceError: There is no room.
        """
        here = self._settled(request)
        if isinstance(here, LocalModel):
            return here
        version = self._measured(request, here)
        with self._around.downloads.hold(request.token):
            downloaded = self._fetched(request, version)
        return self._kept(request.choice, version, downloaded)

    def facts(self, request: Request) -> RepoFacts | None:
        """Return nothing in particular of a model that exists; None of one that does not."""
        choice = request.choice
        if self._around.is_offline:
            return RepoFacts() if self.find(choice) is not None else None
        try:
            version_id = self._catalog.newest(_ref(choice), request.token)
            self._catalog.version(version_id, str(choice.target), request.token)
        except ModelResolutionError as error:
            if error.retryable:
                raise
            return None
        return RepoFacts()

    def _settled(self, request: Request) -> LocalModel | str:
        """Return the model if it is here and cannot have changed, else its version's id."""
        choice, ref = request.choice, _ref(request.choice)
        here = self.find(choice)
        if here is not None and (ref.version_id or self._around.is_offline):
            return here
        if self._around.is_offline:
            raise offline_miss(choice)
        try:
            version_id = self._catalog.newest(ref, request.token)
        except ModelResolutionError as error:
            return last_known(request, here if self._around.may_use_last_known else None, error)
        return here if here is not None and here.digest == version_id else version_id

    def _measured(self, request: Request, version_id: str) -> Version:
        ref, token = str(request.choice.target), request.token
        version = self._catalog.version(version_id, ref, token)
        chosen = _chosen(version.files, request.choice)
        files = tuple(self._catalog.measured(file, ref, token) for file in chosen)
        large = next((file for file in files if (file.size_bytes or 0) > _MAX_FILE_BYTES), None)
        if large is not None:
            raise CivitaiError(
                f"file {large.name!r} of model {ref!r} has {large.size_bytes} bytes, at most "
                f"{_MAX_FILE_BYTES} are fetched",
                code="civitai_download_failed",
            )
        return version._replace(files=files)

    def _fetched(self, request: Request, version: Version) -> int:
        """Fetch what is missing; return the bytes that came over the network."""
        ref, root = str(request.choice.target), self._root(version.version_id)
        missing = [file for file in version.files if not _is_here(root, file)]
        size = sum(file.size_bytes or 0 for file in missing)
        self._around.store.make_room(size)
        wanted = [
            FileToFetch(
                destination=os.path.join(root, file.name),
                size_bytes=file.size_bytes,
                digest=f"sha256:{file.sha256}",
                locations=(Location(file.url, self._catalog.headers(file.url)),),
            )
            for file in version.files
        ]
        try:
            if not missing:
                return self._around.fetcher.fetch(wanted, token=request.token).bytes_fetched
            with request.report.running(size):
                return self._around.fetcher.fetch(
                    wanted, token=request.token, progress=request.report.progress
                ).bytes_fetched
        except ArtifactTransferError as error:
            raise refusal_of(
                ref, error, has_token=self._catalog.has_token, while_fetching=True
            ) from error

    def _kept(self, choice: ModelChoice, version: Version, downloaded: int) -> LocalModel:
        """Check what came, give components their usual names, remember that all is here."""
        root, names = self._root(version.version_id), tuple(x.name for x in version.files)
        for name in names:
            assert_loadable(os.path.join(root, name), str(choice.target))
        aliases = aliases_of(names)
        with disk_errors(root, 0):
            for place, name in aliases.items():
                link(safe_join(root, place), os.path.join(root, name))
        sizes = {name: os.stat(os.path.join(root, name)).st_size for name in names}
        manifest = "\n".join(f"{x.sha256} {x.name}" for x in sorted(version.files))
        revision = f"manifest_sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"
        components = {"components": " ".join(sorted(aliases))} if aliases else {}
        resolved = Resolved(
            key=key_of(choice),
            digest=version.version_id,
            root=root,
            files=tuple(KnownFile(name, sizes[name]) for name in names),
            attributes={**version.facts, "source_revision": revision, **components},
        )
        pinned = f"{identity(CivitaiRef(version_id=version.version_id))}"
        keys = {resolved.key} if choice.allow_patterns else {resolved.key, pinned}
        for key in keys:
            self._around.known.put(msgspec.structs.replace(resolved, key=key))
        model = _local_model(choice, resolved)
        return msgspec.structs.replace(
            model, bytes_downloaded=downloaded, was_cached=not downloaded
        )

    def _root(self, version_id: str) -> str:
        return os.path.join(self._around.store.root, "civitai", version_id)


def _ref(choice: ModelChoice) -> CivitaiRef:
    ref = choice.target
    assert isinstance(ref, CivitaiRef), "the provider's own"
    return ref


def _chosen(files: Sequence[CivitaiFile], choice: ModelChoice) -> tuple[CivitaiFile, ...]:
    """Return the files that the globs of a choice match; all of them without globs."""
    globs = choice.allow_patterns
    found = tuple(x for x in files if not globs or any(fnmatchcase(x.name, y) for y in globs))
    if not found:
        raise CivitaiError(
            f"model {str(choice.target)!r} of Civitai has no file that {list(globs)!r} match: "
            "check the globs",
            code="civitai_no_supported_files",
        )
    return found


def _is_here(root: str, file: CivitaiFile) -> bool:
    try:
        size = os.stat(os.path.join(root, file.name)).st_size
    except OSError:
        return False
    return file.size_bytes in (None, size)


def _local_model(choice: ModelChoice, resolved: Resolved) -> LocalModel:
    files = tuple(file.path for file in resolved.files)
    only = os.path.join(resolved.root, files[0])
    return LocalModel(
        identity=identity(choice.target),
        provider="civitai",
        ref=str(choice.target),
        path=only if len(files) == 1 else resolved.root,
        root=resolved.root,
        digest=resolved.digest,
        files=files,
        size_bytes=sum(file.size_bytes for file in resolved.files),
        attributes=resolved.attributes,
    )
