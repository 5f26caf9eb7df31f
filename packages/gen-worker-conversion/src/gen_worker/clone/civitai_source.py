"""Civitai as the source of an import."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gen_worker.clone.huggingface_source import weights_by_folder
from gen_worker.clone.planning import SourceFacts, SourceIdentity
from gen_worker.clone.sources import Fetched
from gen_worker.conversion.classify import ClassificationInputs, SafetensorsFacts
from gen_worker.conversion.classify.adapters import looks_like_adapter
from gen_worker.conversion.classify.layouts import detect_huggingface_source_layout
from gen_worker.conversion.classify.lineage import adapter_facts
from gen_worker.conversion.ingest.civitai import fetch_identity, identify
from gen_worker.conversion.ingest.huggingface import precision_here
from gen_worker.models.formats import read_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cancel import CancelToken
    from gen_worker.clone.payload import CloneRequest
    from gen_worker.conversion.ingest.civitai import CivitaiIdentity
    from gen_worker.conversion.ingest.providers import CivitaiSite

__all__ = ["CivitaiSource", "pipeline_hint"]

_PIPELINES = (
    ("auraflow", "AuraFlowPipeline"),
    ("flex.2", "FluxPipeline"),
    ("flux.2 klein", "Flux2KleinPipeline"),
    ("flux.2", "Flux2Pipeline"),
    ("flux", "FluxPipeline"),
    ("wan", "WanPipeline"),
    ("qwen image edit", "QwenImageEditPipeline"),
    ("qwen", "QwenImagePipeline"),
    ("zimage", "ZImagePipeline"),
    ("z-image", "ZImagePipeline"),
    ("sdxl", "StableDiffusionXLPipeline"),
    ("illustrious", "StableDiffusionXLPipeline"),
    ("pony", "StableDiffusionXLPipeline"),
    ("sd 1", "StableDiffusionPipeline"),
    ("sd 2", "StableDiffusionPipeline"),
)
_LIBRARIES = {"native_lora": "diffusers-lora", "aio_singlefile": "diffusers-single-file"}


class CivitaiSource:
    """One version of a model."""

    mode = "civitai"

    def __init__(self, site: CivitaiSite, request: CloneRequest, token: CancelToken) -> None:
        self._site = site
        self._request = request
        self._token = token

    def identity(self) -> SourceIdentity:
        found = self._identified
        return SourceIdentity(
            provider="civitai",
            ref=f"civitai:{found.model_version_id}",
            revision=found.identity,
        )

    def fetch(self, directory: str, watch: Callable[[int, int | None], None]) -> Fetched:
        found = self._identified
        result = fetch_identity(self._site, found, directory, watch, self._token)
        sizes = {path: os.path.getsize(os.path.join(directory, path)) for path in result["files"]}
        inputs = _inputs(directory, sizes)
        strategy = "native_lora" if looks_like_adapter(inputs) else "aio_singlefile"
        if len(sizes) > 1:
            strategy = "components"
        library = _LIBRARIES.get(strategy, "diffusers")
        layout = detect_huggingface_source_layout(repo_dir=directory, files=sizes)
        hint = pipeline_hint(found)
        spec = {"library_name": library, "model_family": found.family, "class_name": hint}
        return Fetched(
            facts=SourceFacts(
                strategy=strategy,
                runtime_library=library,
                dtype=precision_here(directory, sizes),
                sizes=sizes,
                components=weights_by_folder(sizes),
            ),
            spec={name: value for name, value in spec.items() if value and value != "unknown"},
            metadata=_metadata(found, inputs, library, hint),
            layout=layout._asdict(),
        )

    @cached_property
    def _identified(self) -> CivitaiIdentity:
        request = self._request
        return identify(
            self._site,
            request.civitai_model_version_id,
            civitai_file_id=request.civitai_file_id,
            token=self._token,
        )


def pipeline_hint(found: CivitaiIdentity) -> str:
    """Return the class of diffusers that a version is meant for; empty when it is not known."""
    text = found.facts.get("base_model", "").lower()
    return next((pipeline for part, pipeline in _PIPELINES if text.startswith(part)), "")


def _inputs(directory: str, sizes: dict[str, int]) -> ClassificationInputs:
    headers = {}
    for path in sizes:
        header = read_header(os.path.join(directory, *path.split("/")))
        headers[path] = SafetensorsFacts(
            names=frozenset(header.tensors),
            dtypes=frozenset(tensor.dtype for tensor in header.tensors.values()),
            metadata=header.metadata,
        )
    return ClassificationInputs(sizes=sizes, headers=headers)


def _metadata(
    found: CivitaiIdentity, inputs: ClassificationInputs, library: str, hint: str
) -> dict[str, Any]:
    told = {
        **found.facts,
        **adapter_facts(inputs),
        "runtime_library": library,
        "pipeline_class": hint,
        "source": f"civitai:{found.model_version_id}",
        "civitai_model_id": found.model_id,
        "civitai_model_version_id": found.model_version_id,
        "source_revision": found.identity,
        "base_model_family": found.family,
        "lineage_source": "civitai_baseModel" if found.facts.get("base_model") else "none",
        "source_files": dict(found.files),
    }
    return {name: value for name, value in told.items() if value}
