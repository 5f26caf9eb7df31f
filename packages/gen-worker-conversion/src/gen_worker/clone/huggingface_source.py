"""Hugging Face as the source of an import."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gen_worker.clone.planning import SourceFacts, SourceIdentity
from gen_worker.clone.sources import Fetched
from gen_worker.conversion.classify.families import repo_to_family
from gen_worker.conversion.ingest.huggingface import fetch_inspected
from gen_worker.conversion.ingest.inspecting import inspect_repository, preference_for
from gen_worker.conversion.vocabulary import GGUF_TYPES, is_fuzzy_bitwidth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.clone.payload import CloneRequest
    from gen_worker.conversion.ingest.inspecting import Inspected
    from gen_worker.conversion.ingest.providers import HuggingFaceSite

__all__ = ["HuggingFaceSource", "licence_of", "weights_by_folder"]

_WEIGHTS = (".safetensors", ".gguf")

_REPORTED = (
    *("file_count", "total_bytes", "skipped_count", "skipped_bytes"),
    *("pickle_files_refused", "selections", "warnings"),
)


class HuggingFaceSource:
    """One repository at one commit."""

    mode = "huggingface"

    def __init__(self, site: HuggingFaceSite, request: CloneRequest, token: CancelToken) -> None:
        self._site = site
        self._request = request
        self._token = token

    def identity(self) -> SourceIdentity:
        found = self._inspected
        return SourceIdentity(provider="hf", ref=f"hf:{found.repo_id}", revision=found.commit)

    def fetch(self, directory: str, watch: Callable[[int, int | None], None]) -> Fetched:
        found = self._inspected
        result = fetch_inspected(self._site, found, directory, watch, self._token)
        sizes = {path: os.path.getsize(os.path.join(directory, path)) for path in result["files"]}
        dtype = result["attrs"].get("dtype", "")
        if found.classification.strategy == "gguf":
            dtype = found.classification.selections.get("", "")
        return Fetched(
            facts=SourceFacts(
                strategy=found.classification.strategy,
                runtime_library=found.classification.runtime_library,
                dtype=dtype,
                sizes=sizes,
                components=weights_by_folder(sizes),
            ),
            spec=_spec(found),
            metadata=_metadata(found, result),
            layout=result["selected_source_layout"],
            digests={path: found.digests[path] for path in sizes if path in found.digests},
            report={name: result[name] for name in _REPORTED},
        )

    @cached_property
    def _inspected(self) -> Inspected:
        request = self._request
        outputs = [one.dtype for one in request.outputs] or ["bf16"]
        quants = [one.dtype for one in request.outputs if _is_gguf(one.dtype, one.file_type)]
        return inspect_repository(
            self._site.remote,
            request.huggingface_repo,
            revision=request.source_revision,
            preference=request.source_dtype_preference or preference_for(outputs),
            gguf_quant=request.gguf_quant or next(iter(quants), ""),
            allow_large=request.allow_large,
            token=self._token,
        )


def weights_by_folder(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes of weights in each folder; the root is the empty name."""
    found: dict[str, int] = {}
    for path, size in sizes.items():
        if path.endswith(_WEIGHTS):
            folder = path.rpartition("/")[0]
            found[folder] = found.get(folder, 0) + size
    return found


def licence_of(card: Mapping[str, Any]) -> dict[str, str]:
    """Return `license` and `license_link`, as a model card names them."""
    name, link = card.get("license"), card.get("license_link")
    if name == "other" and isinstance(card.get("license_name"), str):
        name = card["license_name"]
    told = {"license": name, "license_link": link}
    return {key: value for key, value in told.items() if isinstance(value, str)}


def _is_gguf(dtype: str, file_type: str) -> bool:
    return dtype in GGUF_TYPES or (file_type == "gguf" and is_fuzzy_bitwidth(dtype))


def _family(found: Inspected) -> str:
    told = found.classification.attributes.get("base_model_family", "")
    return repo_to_family(found.repo_id) or told


def _spec(found: Inspected) -> dict[str, str]:
    attributes = found.classification.attributes
    spec = {
        "library_name": found.classification.runtime_library,
        "model_family": _family(found),
        "class_name": attributes.get("pipeline_class") or attributes.get("architecture", ""),
    }
    if found.classification.strategy in ("peft_canonical", "native_lora"):
        spec["adapter_for_family"] = attributes.get("base_model_family", "")
    return {name: value for name, value in spec.items() if value and value != "unknown"}


def _metadata(found: Inspected, result: Mapping[str, Any]) -> dict[str, Any]:
    layout = result["selected_source_layout"]
    return {
        **{name: value for name, value in result["attrs"].items() if name != "dtype"},
        **licence_of(found.inputs.card),
        "source": f"hf:{found.repo_id}",
        "source_repo": found.repo_id,
        "source_revision": found.commit,
        "source_dtype": result["attrs"].get("dtype", ""),
        "model_family": _family(found) or "unknown",
        "model_family_variant": layout["model_family_variant"],
    }
