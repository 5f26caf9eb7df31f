"""Civitai as the source of an import."""

from __future__ import annotations

import os
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gen_worker.clone.huggingface_source import weights_by_folder
from gen_worker.clone.planning import SourceFacts, SourceIdentity
from gen_worker.clone.sources import Fetched
from gen_worker.conversion.classify import ClassificationInputs, SafetensorsFacts
from gen_worker.conversion.classify.adapters import looks_like_adapter
from gen_worker.conversion.classify.layouts import (
    coarse_family,
    detect_huggingface_source_layout,
    variant_of_family,
)
from gen_worker.conversion.classify.lineage import adapter_facts
from gen_worker.conversion.ingest.civitai import fetch_identity, identify
from gen_worker.conversion.ingest.huggingface import precision_here
from gen_worker.models.formats import read_header
from gen_worker.models.sources import CivitaiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cancel import CancelToken
    from gen_worker.clone.payload import CloneRequest
    from gen_worker.conversion.classify.layouts import SourceLayoutInfo
    from gen_worker.conversion.ingest.civitai import CivitaiIdentity
    from gen_worker.conversion.ingest.providers import CivitaiSite

__all__ = ["CivitaiSource", "pipeline_hint"]

_PIPELINES = (
    ("auraflow", "AuraFlowPipeline"),
    ("flex.2", "FluxPipeline"),
    ("flex2", "FluxPipeline"),
    ("flux.2 klein", "Flux2KleinPipeline"),
    ("flux2klein", "Flux2KleinPipeline"),
    ("flux.2", "Flux2Pipeline"),
    ("flux2", "Flux2Pipeline"),
    ("flux", "FluxPipeline"),
    ("wan", "WanPipeline"),
    ("qwen", "QwenImagePipeline"),
    ("zimage", "ZImagePipeline"),
    ("z-image", "ZImagePipeline"),
    ("sdxl", "StableDiffusionXLPipeline"),
    ("illustrious", "StableDiffusionXLPipeline"),
    ("pony", "StableDiffusionXLPipeline"),
    ("sd 1", "StableDiffusionPipeline"),
    ("sd 2", "StableDiffusionPipeline"),
    ("sd1", "StableDiffusionPipeline"),
    ("sd2", "StableDiffusionPipeline"),
)
"""Beginnings of base models, and of the ecosystem that an AIR names; longer ones first."""
_EDITING = ("QwenImagePipeline", "QwenImageEditPipeline")
_TEXT_AND_VAE = ("transformer", "text_encoder", "vae")
_COMPONENTS = {
    **dict.fromkeys(("flux1", "flex2"), ("transformer", "text_encoder", "text_encoder_2", "vae")),
    **dict.fromkeys(("flux2", "z_image", "qwen_image", "auraflow"), _TEXT_AND_VAE),
    **dict.fromkeys(("wan21", "wan22"), _TEXT_AND_VAE),
    "sdxl": ("unet", "text_encoder", "text_encoder_2", "vae"),
    "sd15": ("unet", "text_encoder", "vae"),
}
"""Without which a pipeline of a variant does not load."""
_INDEX = "model_index.json"
_AIR = re.compile(r"urn:air:([^:]+):")
_PERMISSIONS = (
    *("allowNoCredit", "allowCommercialUse", "allowDerivatives", "allowDifferentLicense"),
)
_CARD = "---\nlicense: other\nlicense_name: civitai\nlicense_link: {link}\n---\n"
_LIBRARIES = {
    "native_lora": "diffusers-lora",
    "aio_singlefile": "diffusers-single-file",
    "components": "diffusers-components",
}


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
        library = _LIBRARIES[strategy]
        layout = _layout(found, directory, sizes)
        hint = pipeline_hint(found)
        spec = {"library_name": library, "model_family": found.family}
        spec |= {"class_name": hint} if strategy != "components" else {}  # nothing loads it so
        spec |= {"adapter_for_family": found.family} if strategy == "native_lora" else {}
        return Fetched(
            facts=SourceFacts(
                strategy=strategy,
                runtime_library=library,
                dtype=precision_here(directory, sizes),
                sizes=sizes,
                components=weights_by_folder(sizes),
            ),
            spec={name: value for name, value in spec.items() if value and value != "unknown"},
            metadata={
                **_metadata(found, inputs, library, hint),
                **self._said(found),
                **_missing(strategy, layout.model_family_variant, sizes),
            },
            layout=layout._asdict(),
            card=_CARD.format(link=_license_link(found)),
            digests={path: f"sha256:{told}" for path, told in found.fingerprints.items()},
        )

    def _said(self, found: CivitaiIdentity) -> dict[str, Any]:
        """Return what the site says besides: names, words that call a style, what is permitted."""
        catalog, ref = self._site.catalog, f"civitai:{found.model_version_id}"
        version = catalog.record(found.model_version_id, ref, self._token)
        try:
            model = catalog.model(found.model_id, ref, self._token) if found.model_id else {}
        except CivitaiError as error:  # of a version that is left of a model
            if error.code != "civitai_not_found":
                raise
            model = {}
        words = version.get("trainedWords")
        told = {
            "model_name": model.get("name"),
            "model_version_name": version.get("name"),
            "model_type": model.get("type"),
            "trained_words": words if isinstance(words, list) else [],
            "permissions": {name: model[name] for name in _PERMISSIONS if name in model},
            "license_link": _license_link(found),
        }
        return {name: value for name, value in told.items() if value}

    @cached_property
    def _identified(self) -> CivitaiIdentity:
        request = self._request
        return identify(
            self._site,
            request.civitai_model_version_id,
            civitai_file_id=request.civitai_file_id,
            token=self._token,
        )


def _license_link(found: CivitaiIdentity) -> str:
    return f"https://civitai.com/models/license/{found.model_version_id}"


def pipeline_hint(found: CivitaiIdentity) -> str:
    """Return the class of diffusers that a version is meant for; empty when it is not known."""
    facts = {name: text.lower() for name, text in found.facts.items()}
    base, kind = facts.get("base_model", ""), facts.get("base_model_type", "")
    ecosystem = _AIR.match(facts.get("air", ""))
    for text in (base, ecosystem[1] if ecosystem else ""):
        for start, pipeline in _PIPELINES:
            if text.startswith(start):
                is_editing = pipeline == _EDITING[0] and "edit" in f"{base} {kind}"
                return _EDITING[1] if is_editing else pipeline
    return ""


def _layout(found: CivitaiIdentity, directory: str, sizes: dict[str, int]) -> SourceLayoutInfo:
    """Return what the files look like; files that do not say their family have the site's word."""
    layout = detect_huggingface_source_layout(repo_dir=directory, files=sizes)
    variant = variant_of_family(found.family)
    if layout.model_family_variant != "unknown" or not variant:
        return layout
    return layout._replace(
        model_family=coarse_family(variant),
        model_family_variant=variant,
        detection_reason=f"family {found.family!r} of Civitai",
    )


def _missing(strategy: str, variant: str, sizes: dict[str, int]) -> dict[str, list[str]]:
    """Return what components lack to be a pipeline, which nothing loads them as.

    Those that one of this variant has besides, and the configurations, which the site has not.
    """
    if strategy != "components":
        return {}
    here = sorted({path.partition("/")[0] for path in sizes})
    needed = [name for name in _COMPONENTS.get(variant, ()) if name not in here]
    files = [_INDEX, *(f"{name}/config.json" for name in here)]
    return {"missing_files": files, **({"missing_components": needed} if needed else {})}


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
