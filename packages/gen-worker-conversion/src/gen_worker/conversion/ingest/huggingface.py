"""Repositories of Hugging Face: classified, fetched through the shared cache, put in place."""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.classify import (
    detect_huggingface_source_layout,
    read_safetensors_header_dtype,
)
from gen_worker.conversion.ingest.inspecting import (
    Inspected,
    inspect_repository,
    preference_for,
)
from gen_worker.conversion.ingest.placing import place_files
from gen_worker.conversion.ingest.providers import Providers
from gen_worker.models.choice import ModelChoice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.ingest.providers import HuggingFaceSite
    from gen_worker.models.fetch.values import FetchProgress

__all__ = ["download_huggingface_repo_files", "fetch_inspected", "precision_here"]


def download_huggingface_repo_files(
    source_repo: str,
    output_dir: str | os.PathLike[str],
    *,
    source_revision: str | None = None,
    source_dtype_preference: Sequence[str] | None = None,
    gguf_quant: str | None = None,
    allow_large: bool = False,
    progress_callback: Callable[[int, int | None], object] | None = None,
    dtype_outputs: Sequence[str] | None = None,
    hf_token: str = "",
    providers: Providers | None = None,
    token: CancelToken | None = None,
) -> dict[str, Any]:
    """Have the smallest set of a repository's files that loads; blocks.

    Files go through the cache that this worker's models share, each verified while it arrives; a
    broken-off download is gone on with.

    Args:
        source_repo: `owner/repo` or `owner/repo:revision`.
        output_dir: Made when absent.
        source_revision: Branch, tag or commit; what it means now is pinned.
        source_dtype_preference: Precisions, the most welcome first.
        gguf_quant: Which of several GGUF files, such as `q4_k_m` or `4bit`.
        allow_large: Whether it may be more than 100 GiB.
        progress_callback: Called with the bytes fetched and their total, None while unknown.
        dtype_outputs: What will be made of it; decides the precision when nothing else does.
        hf_token: Instead of that of the environment.
        providers: Other sites than the usual ones.
        token: Ends it.

    Returns:
        `source_repo source_revision files file_count total_bytes strategy runtime_library subtype
        attrs selected_count skipped_count selected_bytes skipped_bytes pickle_files_refused
        selected_source_layout selections warnings`.

    Raises:
        RepoRefusal: It is not converted; `refusal_kind` says why.
        ModelResolutionError: It is not there, or not for this token.
        ArtifactTransferError: Its files could not be fetched.
        DiskFullError: There is no room.
    """
    preference = tuple(source_dtype_preference or preference_for(dtype_outputs or ()))
    with (providers or Providers()).huggingface(hf_token) as site:
        inspected = inspect_repository(
            site.remote,
            source_repo,
            revision=source_revision,
            preference=preference,
            gguf_quant=gguf_quant or "",
            allow_large=allow_large,
            token=token,
        )
        return fetch_inspected(site, inspected, output_dir, progress_callback, token)


def fetch_inspected(
    site: HuggingFaceSite,
    inspected: Inspected,
    output_dir: str | os.PathLike[str],
    progress_callback: Callable[[int, int | None], object] | None = None,
    token: CancelToken | None = None,
    *,
    files: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Fetch the files of a classified repository; see `download_huggingface_repo_files`.

    Args:
        site: Where it is.
        inspected: What it is.
        output_dir: Where the files go.
        progress_callback: Called with bytes.
        token: Ends it.
        files: Others than those that classification chose.
    """
    chosen = tuple(inspected.classification.files if files is None else files)
    choice = ModelChoice(
        ref=inspected.repo_id,
        provider="hf",
        revision=inspected.commit,
        # A listing's paths are no globs: brackets in them mean themselves.
        allow_patterns=tuple(glob.escape(path) for path in chosen),
    )

    def watch(state: FetchProgress) -> None:
        if progress_callback is not None:
            progress_callback(state.bytes_done, state.bytes_total or None)

    with site.sources.hold(choice, token=token, watch=watch) as model:
        places = {path: os.path.join(model.root, *path.split("/")) for path in model.files}
        size = place_files(places, os.fspath(output_dir))
    return _result(inspected, os.fspath(output_dir), model.files, size)


def _result(
    inspected: Inspected, directory: str, files: Sequence[str], size: int
) -> dict[str, Any]:
    found = inspected.classification
    layout = detect_huggingface_source_layout(repo_dir=directory, files=files)
    precision = precision_here(directory, files)
    return {
        "source_repo": inspected.repo_id,
        "source_revision": inspected.commit,
        "files": list(files),
        "file_count": len(files),
        "total_bytes": size,
        "strategy": found.strategy,
        "runtime_library": found.runtime_library,
        "subtype": found.subtype,
        "attrs": {**found.attributes, **({"dtype": precision} if precision else {})},
        "selected_count": len(found.files),
        "skipped_count": len(found.skipped),
        "selected_bytes": found.selected_bytes,
        "skipped_bytes": found.skipped_bytes,
        "pickle_files_refused": list(found.pickle_files_refused),
        "selected_source_layout": layout._asdict(),
        "selections": dict(found.selections),
        "warnings": list(found.warnings),
    }


def precision_here(directory: str, files: Iterable[str]) -> str:
    """Return the precision that all safetensors files share, by their headers; else nothing."""
    weights = [path for path in files if path.endswith(".safetensors")]
    found = {
        read_safetensors_header_dtype(os.path.join(directory, *path.split("/"))) for path in weights
    } - {""}
    return found.pop() if len(found) == 1 else ""
