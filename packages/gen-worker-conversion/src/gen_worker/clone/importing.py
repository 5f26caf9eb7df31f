"""An import from its first question to its published revision."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.clone.civitai_source import CivitaiSource
from gen_worker.clone.executing import make_flavors
from gen_worker.clone.huggingface_source import HuggingFaceSource
from gen_worker.clone.payload import read_request
from gen_worker.clone.planning import plan_clone, recipe_of
from gen_worker.clone.progress import CloneProgress
from gen_worker.clone.publishing import earlier_import, publish, sends_early
from gen_worker.conversion.artifacts import ConversionOutput
from gen_worker.conversion.convert.planning import available_tokens
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.ingest import Providers
from gen_worker.models.formats.plain_files import files_below
from gen_worker.types import Tensors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from gen_worker.clone.payload import CloneRequest
    from gen_worker.clone.planning import FailedFlavor, SourceIdentity
    from gen_worker.clone.publishing import EarlierImport
    from gen_worker.clone.sources import Source
    from gen_worker.context import ConversionContext

__all__ = ["from_civitai", "from_huggingface"]


def from_huggingface(
    ctx: ConversionContext,
    payload: Any,
    *,
    hf_token: str | None = None,
    providers: Providers | None = None,
) -> ConversionOutput:
    """Import a repository of Hugging Face and publish it; blocks.

    Args:
        ctx: The call; its progress and its `conversion.clone_progress` events tell of stages.
        payload: A record or a struct: `huggingface_repo`, `source_revision`, `destination_repo`,
            `destination_repo_tags`, `outputs`, `save_formats`, `target_layout`,
            `source_dtype_preference`, `gguf_quant`, `quantize_components`, `overwrite_repo`,
            `allow_large`.
        hf_token: Counts more than that of the call and of the environment.
        providers: Other sites than the usual ones.

    Returns:
        The first flavor's weights and all other files; in `metadata` the flavors, their
        checkpoints, `verification` and `size_facts` of each, `failed_flavors` with reasons, and
        the source.

    Raises:
        ValidationError: The payload asks for what cannot be.
        RepoRefusal: The repository is not imported; `refusal_kind` says why.
        ModelResolutionError: It is not there, or not for this token.
        ConversionError: No flavor could be made.
        ArtifactTransferError: Something could not be fetched or published.
    """
    request = read_request(payload, provider="hf")
    with (providers or Providers()).huggingface(hf_token or ctx.hf_token) as site:
        return _import(ctx, request, HuggingFaceSource(site, request, ctx.cancel_token))


def from_civitai(
    ctx: ConversionContext,
    payload: Any,
    *,
    civitai_api_key: str | None = None,
    providers: Providers | None = None,
) -> ConversionOutput:
    """Import a version of a model on Civitai and publish it; see `from_huggingface`.

    Args:
        ctx: The call.
        payload: `civitai_model_version_id` and `civitai_file_id` instead of a repository.
        civitai_api_key: Counts more than that of the environment; also for metadata.
        providers: Other sites than the usual ones.

    Raises:
        CivitaiError: The version cannot be had; `code` says why.
        Exception: What `from_huggingface` raises.
    """
    request = read_request(payload, provider="civitai")
    with (providers or Providers()).civitai(civitai_api_key or "") as site:
        return _import(ctx, request, CivitaiSource(site, request, ctx.cancel_token))


def _import(ctx: ConversionContext, request: CloneRequest, source: Source) -> ConversionOutput:
    progress = CloneProgress(ctx)
    progress.stage("clone.started", 0.05, destination_repo=request.destination)
    identity = source.identity()
    recipe = recipe_of(request)
    told = {"source": identity.ref, "source_revision": identity.revision}
    progress.stage("clone.source_identity_resolved", 0.15, **told)
    known = None if request.overwrite_repo else earlier_import(ctx, request, identity, recipe)
    if known is not None:
        progress.stage("clone.dedupe.skipped", 0.18, **told)
        progress.stage("clone.completed", 1.0, **told)
        return _nothing_new(request, identity, known)
    progress.stage("clone.ingest.mode_selected", 0.17, mode=source.mode)
    with _workplace(ctx, f"{identity.ref} {identity.revision} {recipe}") as work:
        output = _made(ctx, request, source, identity, recipe, work, progress)
    progress.stage("clone.completed", 1.0, flavors=output.metadata["flavors"])
    return output


def _made(
    ctx: ConversionContext,
    request: CloneRequest,
    source: Source,
    identity: SourceIdentity,
    recipe: str,
    work: str,
    progress: CloneProgress,
) -> ConversionOutput:
    directory = os.path.join(work, "source", identity.name)
    with progress.downloading() as watch:
        fetched = source.fetch(directory, watch)
    _keep_only(directory, fetched.facts.sizes)
    progress.stage("clone.layout.detected", 0.58, **fetched.layout)
    progress.stage("clone.ingest.completed", 0.60, files=len(fetched.facts.sizes))
    plan = plan_clone(
        identity,
        fetched.facts,
        request.outputs,
        available=available_tokens(),
        quantize_components=request.quantize_components,
    )
    made, failed = make_flavors(
        plan,
        directory,
        os.path.join(work, "flavors"),
        progress=progress,
        token=ctx.cancel_token,
        digests=fetched.digests,
        card_from=_card(fetched.card, os.path.join(work, "card")),
        on_file=sends_early(ctx, request, fetched.spec),
    )
    if not made:
        reasons = "; ".join(f"{one.spec_label}: {one.reason}" for one in failed)
        raise ConversionInputError(f"no flavor of {identity.ref!r} can be made: {reasons}")
    progress.stage("clone.layout.completed", 0.95, flavors=len(made))
    output = publish(
        ctx,
        request,
        identity,
        made,
        failed,
        spec=fetched.spec,
        metadata=fetched.metadata,
        recipe=recipe,
    )
    output.metadata.update(
        _report({**fetched.metadata, **fetched.report}, failed),
        size_facts={one.flavor.label: one.size_facts for one in made},
        verification={one.flavor.label: one.attributes["verification"] for one in made},
    )
    return output


def _card(text: str, directory: str) -> str | None:
    """Write the model card of a source that has none; return where, None where it has one."""
    if not text:
        return None
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "README.md"), "w", encoding="utf-8") as file:
        file.write(text)
    return directory


def _keep_only(directory: str, paths: Collection[str]) -> None:
    """Remove what an earlier attempt fetched and this one did not choose."""
    for real, path in list(files_below(directory)):
        if path not in paths:
            os.unlink(real)


def _report(metadata: dict[str, Any], failed: Sequence[FailedFlavor]) -> dict[str, Any]:
    return {
        **metadata,
        "failed_flavors": [one.as_dict() for one in failed],
        "failed_flavor_count": len(failed),
    }


@contextmanager
def _workplace(ctx: ConversionContext, key: str) -> Iterator[str]:
    """Give a directory that a restarted job finds again."""
    if not ctx.job_id:
        yield os.fspath(ctx.mktemp())
        return
    place = os.fspath(ctx.checkpoint_dir(key=f"clone {key}"))
    yield place
    shutil.rmtree(place, ignore_errors=True)  # whoever asks again finds the import where it went


def _nothing_new(
    request: CloneRequest, identity: SourceIdentity, known: EarlierImport
) -> ConversionOutput:
    first = known.checkpoints[0]
    return ConversionOutput(
        weights=Tensors(
            ref=f"{request.destination}@{first.checkpoint_id}",
            snapshot_digest=first.checkpoint_id,
        ),
        metadata={
            "flavors": [one.flavor for one in known.checkpoints],
            "checkpoints": [msgspec.to_builtins(one) for one in known.checkpoints],
            "is_deduplicated": True,
            "source": identity.ref,
            "source_revision": identity.revision,
            **_report({}, known.deferred),
        },
    )
