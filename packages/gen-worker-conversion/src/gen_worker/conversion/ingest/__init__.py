"""Models of Hugging Face and Civitai, classified and fetched into a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.conversion.ingest.civitai import (
        download_civitai_model_version_files,
        resolve_civitai_frontend_model_url,
        resolve_civitai_source_identity,
    )
    from gen_worker.conversion.ingest.civitai_urls import parse_civitai_frontend_model_url
    from gen_worker.conversion.ingest.huggingface import download_huggingface_repo_files
    from gen_worker.conversion.ingest.providers import Providers

__all__ = [
    "Providers",
    "download_civitai_model_version_files",
    "download_huggingface_repo_files",
    "parse_civitai_frontend_model_url",
    "resolve_civitai_frontend_model_url",
    "resolve_civitai_source_identity",
]

_MODULES = {
    "civitai": (
        "download_civitai_model_version_files",
        "resolve_civitai_frontend_model_url",
        "resolve_civitai_source_identity",
    ),
    "civitai_urls": ("parse_civitai_frontend_model_url",),
    "huggingface": ("download_huggingface_repo_files",),
    "providers": ("Providers",),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
