"""Versions of models on Civitai: identified, fetched and put in place."""

from __future__ import annotations

import glob
import hashlib
import os
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.cancel import CancelToken
from gen_worker.conversion.classify.families import civitai_to_family
from gen_worker.conversion.ingest.civitai_urls import parse_civitai_frontend_model_url
from gen_worker.conversion.ingest.placing import place_files
from gen_worker.conversion.ingest.providers import Providers
from gen_worker.errors import ValidationError
from gen_worker.models.choice import ModelChoice
from gen_worker.models.refs import CivitaiRef
from gen_worker.models.sources import CivitaiError
from gen_worker.models.sources.civitai.catalog import aliases_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gen_worker.conversion.ingest.providers import CivitaiSite
    from gen_worker.models.fetch.values import FetchProgress
    from gen_worker.models.sources.civitai.catalog import CivitaiFile

__all__ = [
    "CivitaiIdentity",
    "download_civitai_model_version_files",
    "fetch_identity",
    "identify",
    "resolve_civitai_frontend_model_url",
    "resolve_civitai_source_identity",
]


class CivitaiIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What exactly one version means."""

    model_id: str
    model_version_id: str
    identity: str
    """`manifest_sha256:<hex>` of the files: the same files are the same source."""
    files: dict[str, str]
    """Name on Civitai by the path it gets; components get the places where loaders look."""
    fingerprints: dict[str, str]
    """SHA-256 by path."""
    facts: dict[str, str] = {}
    """Such as `base_model` and `air`."""
    family: str = "unknown"


def resolve_civitai_frontend_model_url(
    url: str,
    *,
    explicit_model_version_id: int | str | None = None,
    civitai_api_key: str = "",
    providers: Providers | None = None,
) -> str:
    """Return the id of the version that a model's page means: named, else the newest; blocks.

    Raises:
        ValidationError: It is no page of a model, or names another version.
        CivitaiError: There is no such model.
    """
    page = parse_civitai_frontend_model_url(url)
    explicit = str(explicit_model_version_id or "")
    if explicit and page.model_version_id and explicit != page.model_version_id:
        raise ValidationError(
            f"the page names version {page.model_version_id}, and {explicit} was asked for: give "
            "one of them"
        )
    if explicit or page.model_version_id:
        return explicit or page.model_version_id
    with (providers or Providers()).civitai(civitai_api_key) as site:
        return site.catalog.newest(CivitaiRef(model_id=page.model_id), CancelToken())


def resolve_civitai_source_identity(
    version_id: int | str,
    *,
    civitai_file_id: int | str | None = None,
    civitai_api_key: str = "",
    providers: Providers | None = None,
) -> CivitaiIdentity:
    """Return which files a version means; blocks.

    Args:
        version_id: Of the version.
        civitai_file_id: One of its files; a component brings the others of its model.
        civitai_api_key: Instead of that of the environment; also for metadata.
        providers: Other sites than the usual ones.

    Raises:
        CivitaiError: It cannot be had; `code` says why.
        CivitaiAccessError: Not with this key.
    """
    with (providers or Providers()).civitai(civitai_api_key) as site:
        return identify(site, version_id, civitai_file_id=civitai_file_id)


def identify(
    site: CivitaiSite,
    version_id: int | str,
    *,
    civitai_file_id: int | str | None = None,
    token: CancelToken | None = None,
) -> CivitaiIdentity:
    """Do as `resolve_civitai_source_identity` with a site that is open."""
    ref = str(CivitaiRef(version_id=str(version_id)))
    version = site.catalog.version(str(version_id), ref, token or CancelToken())
    chosen = _chosen(version.files, str(civitai_file_id or ""), ref)
    aliases = aliases_of(tuple(file.name for file in chosen))
    places = {name: place for place, name in aliases.items()}
    files = {places.get(file.name, file.name): file for file in chosen}
    lines = [f"{path}:{file.sha256}" for path, file in sorted(files.items())]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return CivitaiIdentity(
        model_id=version.facts.get("model_id", ""),
        model_version_id=version.version_id,
        identity=f"manifest_sha256:{digest}",
        files={path: file.name for path, file in files.items()},
        fingerprints={path: file.sha256 for path, file in files.items()},
        facts=dict(version.facts),
        family=civitai_to_family(version.facts.get("base_model", "")) or "unknown",
    )


def download_civitai_model_version_files(
    version_id: int | str,
    output_dir: str | os.PathLike[str],
    *,
    civitai_file_id: int | str | None = None,
    progress_callback: Callable[[int, int | None], object] | None = None,
    resolved_identity: CivitaiIdentity | None = None,
    civitai_api_key: str = "",
    providers: Providers | None = None,
    token: CancelToken | None = None,
) -> dict[str, Any]:
    """Have the files of one version; blocks. A broken-off download is gone on with.

    Args:
        version_id: Of the version.
        output_dir: Made when absent.
        civitai_file_id: See `resolve_civitai_source_identity`.
        progress_callback: Called with the bytes fetched and their total, None while unknown.
        resolved_identity: What `resolve_civitai_source_identity` returned; it must still be so.
        civitai_api_key: Instead of that of the environment.
        providers: Other sites than the usual ones.
        token: Ends it.

    Returns:
        `model_id model_version_id source_revision files file_count total_bytes attrs`.

    Raises:
        CivitaiError: It cannot be had; `code` says why.
    """
    with (providers or Providers()).civitai(civitai_api_key) as site:
        found = identify(site, version_id, civitai_file_id=civitai_file_id, token=token)
        if resolved_identity is not None and resolved_identity.identity != found.identity:
            raise CivitaiError(
                f"version {version_id} of Civitai has other files than when it was resolved: "
                f"{found.identity}, not {resolved_identity.identity}: resolve it again",
                code="source_download_sha256_mismatch",
            )
        return fetch_identity(site, found, output_dir, progress_callback, token)


def fetch_identity(
    site: CivitaiSite,
    found: CivitaiIdentity,
    output_dir: str | os.PathLike[str],
    progress_callback: Callable[[int, int | None], object] | None = None,
    token: CancelToken | None = None,
) -> dict[str, Any]:
    """Fetch what was identified; see `download_civitai_model_version_files`."""
    choice = ModelChoice(
        ref=f"versions/{found.model_version_id}",
        provider="civitai",
        allow_patterns=tuple(glob.escape(name) for name in found.files.values()),
    )

    def watch(state: FetchProgress) -> None:
        if progress_callback is not None:
            progress_callback(state.bytes_done, state.bytes_total or None)

    with site.sources.hold(choice, token=token, watch=watch) as model:
        places = {path: os.path.join(model.root, name) for path, name in found.files.items()}
        size = place_files(places, os.fspath(output_dir))
    return _result(found, size)


def _result(found: CivitaiIdentity, size: int) -> dict[str, Any]:
    attributes: Mapping[str, str] = {
        **found.facts,
        "base_model_family": found.family,
        "lineage_source": "civitai_baseModel",
    }
    return {
        "model_id": found.model_id,
        "model_version_id": found.model_version_id,
        "source_revision": found.identity,
        "files": sorted(found.files),
        "file_count": len(found.files),
        "total_bytes": size,
        "attrs": attributes,
    }


def _chosen(files: Sequence[CivitaiFile], file_id: str, ref: str) -> Sequence[CivitaiFile]:
    """Return the components of a model in parts, else one file: that asked for, or the primary."""
    asked = next((file for file in files if file.file_id == file_id), None) if file_id else files[0]
    if asked is None:
        told = ", ".join(f"{file.file_id} ({file.name})" for file in files)
        raise CivitaiError(
            f"{ref!r} of Civitai has no safetensors file {file_id}, only {told}: choose one",
            code="civitai_no_supported_files",
        )
    names = set(aliases_of(tuple(file.name for file in files)).values())
    if asked.name in names and len(names) > 1:
        return [file for file in files if file.name in names]
    return [asked]
