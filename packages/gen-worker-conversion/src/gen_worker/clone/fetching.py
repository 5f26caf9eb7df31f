"""Models and what is said of them, without importing anything."""

from __future__ import annotations

import os
import tempfile
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from gen_worker.cancel import CancelToken
from gen_worker.clone.huggingface_source import licence_of
from gen_worker.clone.records import CivitaiMeta, HFMeta
from gen_worker.conversion.artifacts import IngestResult
from gen_worker.conversion.classify import RepoRefusal
from gen_worker.conversion.classify.families import civitai_to_family, repo_to_family
from gen_worker.conversion.classify.formats import is_pickle
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.ingest import Providers, download_civitai_model_version_files
from gen_worker.conversion.ingest.huggingface import fetch_inspected
from gen_worker.conversion.ingest.inspecting import (
    front_matter,
    inspect_repository,
    split_repo,
)
from gen_worker.models.refs import CivitaiRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "fetch_civitai_file",
    "fetch_huggingface_snapshot",
    "parse_civitai_metadata",
    "parse_huggingface_metadata",
]


def fetch_huggingface_snapshot(
    source_ref: str,
    revision: str | None = None,
    dest_dir: str | os.PathLike[str] | None = None,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    hf_token: str = "",
    providers: Providers | None = None,
) -> IngestResult:
    """Have files of a repository in a directory; blocks.

    Args:
        source_ref: `owner/repo` or `owner/repo:revision`.
        revision: Branch, tag or commit.
        dest_dir: By default a new temporary directory, which the caller removes.
        include: Globs; by default the smallest set of files that loads. Pickles never come.
        exclude: Globs of what is left out.
        hf_token: Instead of that of the environment.
        providers: Other sites than the usual ones.

    Raises:
        RepoRefusal: It is no model that is converted.
        ConversionInputError: Nothing is left to fetch.
    """
    with (providers or Providers()).huggingface(hf_token) as site:
        found = inspect_repository(site.remote, source_ref, revision=revision)
        files = _chosen(found.inputs.sizes, found.classification.files, include, exclude)
        if not files:
            raise ConversionInputError(
                f"nothing of {found.repo_id!r} is left by include={include!r} and "
                f"exclude={exclude!r}: check the globs"
            )
        place = os.fspath(dest_dir or tempfile.mkdtemp(prefix="clone-"))
        result = fetch_inspected(site, found, place, files=files)
    return IngestResult(
        path=place,
        source_ref=f"hf:{found.repo_id}",
        revision=found.commit,
        metadata={**result, **licence_of(found.inputs.card)},
    )


def fetch_civitai_file(
    model_version_id: int | str,
    file_id: int | str | None,
    dest_dir: str | os.PathLike[str],
    *,
    civitai_api_key: str = "",
    providers: Providers | None = None,
) -> IngestResult:
    """Have one file of a version in a directory, with the other components of its model; blocks.

    Raises:
        CivitaiError: It cannot be had; `code` says why.
    """
    result = download_civitai_model_version_files(
        model_version_id,
        dest_dir,
        civitai_file_id=file_id,
        civitai_api_key=civitai_api_key,
        providers=providers,
    )
    return IngestResult(
        path=os.fspath(dest_dir),
        source_ref=f"civitai:{result['model_version_id']}",
        revision=result["source_revision"],
        metadata=result,
    )


def parse_huggingface_metadata(
    source_ref: str,
    revision: str | None = None,
    *,
    hf_token: str = "",
    providers: Providers | None = None,
) -> HFMeta:
    """Return what Hugging Face says of a repository, also of one that is not imported; blocks.

    Raises:
        ModelResolutionError: It is not there, or not for this token.
    """
    with (providers or Providers()).huggingface(hf_token) as site:
        repo_id, wanted = split_repo(source_ref, revision)
        token = CancelToken()
        commit = site.remote.commit_of(repo_id, wanted, token)
        sizes = {
            file.path: file.size_bytes for file in site.remote.files_of(repo_id, commit, token)
        }
        card: dict[str, Any] = {}
        if "README.md" in sizes:
            card = front_matter(site.remote.content(repo_id, commit, "README.md", token))
        attributes: Mapping[str, str] = {}
        refusal = ""
        try:
            found = inspect_repository(site.remote, repo_id, revision=commit)
            attributes = found.classification.attributes
        except RepoRefusal as error:
            refusal = error.refusal_kind
    told = attributes.get("base_model_family", "unknown")
    return HFMeta(
        repo=repo_id,
        revision=commit,
        **licence_of(card),
        tags=_texts(card.get("tags")),
        base_models=_texts(card.get("base_model")),
        library_name=str(card.get("library_name") or attributes.get("runtime_library", "")),
        pipeline_tag=str(card.get("pipeline_tag") or ""),
        family=repo_to_family(repo_id) or told,
        file_count=len(sizes),
        size_bytes=sum(sizes.values()),
        refusal_kind=refusal,
        attributes=dict(attributes),
    )


def parse_civitai_metadata(
    model_version_id: int | str,
    *,
    civitai_api_key: str = "",
    providers: Providers | None = None,
) -> CivitaiMeta:
    """Return what Civitai says of a version; blocks.

    Raises:
        CivitaiError: It cannot be had; `code` says why.
    """
    ref, token = str(CivitaiRef(version_id=str(model_version_id))), CancelToken()
    with (providers or Providers()).civitai(civitai_api_key) as site:
        record = site.catalog.record(str(model_version_id), ref, token)
        version = site.catalog.version(str(model_version_id), ref, token)
    model = record.get("model")
    model = model if isinstance(model, dict) else {}
    base = version.facts.get("base_model", "")
    return CivitaiMeta(
        model_id=version.facts.get("model_id", ""),
        model_version_id=version.version_id,
        name=str(record.get("name") or ""),
        model_name=str(model.get("name") or ""),
        type=str(model.get("type") or ""),
        base_model=base,
        family=civitai_to_family(base) or "unknown",
        trained_words=_texts(record.get("trainedWords")),
        files=[
            {
                "id": file.file_id,
                "name": file.name,
                "sha256": file.sha256,
                "size_bytes": file.size_bytes,
            }
            for file in version.files
        ],
    )


def _chosen(
    sizes: Mapping[str, int],
    selected: Sequence[str],
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
) -> list[str]:
    """Return the files to fetch; those with code in them are never among them."""
    named = list(selected) if include is None else [x for x in sizes if _matches(x, include)]
    return [x for x in sorted(named) if not is_pickle(x) and not _matches(x, exclude or ())]


def _matches(path: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in globs)


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]
