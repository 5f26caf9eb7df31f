"""Imports a model of Hugging Face: the smallest set of files that loads, and casts of it."""

import os
from typing import Any

import msgspec
from gen_worker import ConversionContext, clone, conversion
from gen_worker.conversion.ingest import Providers


class Import(msgspec.Struct):
    huggingface_repo: str
    destination_repo: str
    outputs: list[str] = []
    source_revision: str = ""


@conversion(sub_kind="format-conversion")
class Clone:
    """Asks the site for what a repository has before a weight is fetched."""

    def setup(self) -> None:
        """Choose the site: `HF_ENDPOINT` names a mirror."""
        self.providers = Providers(hf_endpoint=os.environ.get("HF_ENDPOINT", ""))

    @conversion.function(name="import-model")
    def import_model(self, ctx: ConversionContext, payload: Import) -> None:
        """Publish each precision as a flavor of one revision; what cannot be made is told."""
        made = clone.from_huggingface(ctx, payload, providers=self.providers)
        for flavor, found in made.metadata.get("verification", {}).items():
            ctx.log(f"{flavor}: {_verified(found)}")
        for failed in made.metadata.get("failed_flavors") or ():
            ctx.log(f"not made: {failed}", level="warning")


def _verified(found: dict[str, Any]) -> str:
    """Say what was proven of a flavor before it was published."""
    if found.get("is_source"):
        return f"{found['files']} files as they are at the source"
    worst = found["min_snr_db"]
    error = "exact" if worst is None else f"at least {worst:.1f} dB from the source"
    return f"{found['tensors']} tensors, {error}"
