"""An uploader as a job and its surroundings ask for one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gen_worker.cancel import CancelToken
from gen_worker.errors import ValidationError
from gen_worker.models.net import UrlRefusedError
from gen_worker.models.settings import load_model_settings
from gen_worker.trainer.errors import StartupContractError
from gen_worker.trainer.uploads.callbacks import Callbacks
from gen_worker.trainer.uploads.uploader import BackgroundUploader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.models.hub.wire import Lineage
    from gen_worker.models.settings import ModelSettings
    from gen_worker.trainer.config import RunConfig
    from gen_worker.trainer.job_file import JobFile
    from gen_worker.trainer.uploads.publication import HubUploads, Publication

__all__ = ["open_uploader"]

_STAGING = ".uploads"
"""In the directory of the checkpoints, whose files are linked there while they wait."""


def open_uploader(
    config: RunConfig, *, settings: ModelSettings | None = None
) -> BackgroundUploader | None:
    """Return what sends a job's results; None when nobody is told and nothing is published.

    The bytes go to the hub when it is configured and the job has a token and an owner; a job that
    names a `destination` publishes there even if nobody is told.

    Args:
        config: Of the job.
        settings: Which hub; by default those of the environment.

    Raises:
        StartupContractError: A URL, the destination or a tag is none.
    """
    settings = settings or load_model_settings()
    job = config.job
    has_hub = bool(settings.hub_url and config.token and job.owner)
    if not config.uploads and not (job.destination.ref and has_hub):
        return None
    cancel = CancelToken()
    try:
        publication = _publication(job) if has_hub else None
        callbacks = Callbacks(config.uploads, request_id=job.request_id, token=config.token)
    except UrlRefusedError as error:
        raise StartupContractError("startup.invalid_upload_url", str(error)) from error
    except ValidationError as error:
        raise StartupContractError("startup.invalid_destination", str(error)) from error
    return BackgroundUploader(
        callbacks,
        None if publication is None else _hub(config, settings, publication, cancel),
        cancel,
        staging=os.path.join(os.path.abspath(config.places.checkpoints), _STAGING),
        drain_seconds=job.upload_drain_seconds,
    )


def _hub(
    config: RunConfig, settings: ModelSettings, publication: Publication, cancel: CancelToken
) -> HubUploads:
    from gen_worker.models.hub import HubClient
    from gen_worker.trainer.uploads.publication import HubUploads

    client = HubClient(settings.hub_url, config.token, owner=config.job.owner)
    return HubUploads(client, publication, cancel)


def _publication(job: JobFile) -> Publication:
    """Return what is to become of a job's checkpoints; hints come before the destination.

    Raises:
        ValidationError: The destination is no repository, or a tag is none.
    """
    from gen_worker.models.hub.wire import DEFAULT_FLAVOR, check_tags
    from gen_worker.models.refs import TensorhubRef, parse_ref
    from gen_worker.trainer.uploads.publication import Publication

    hints, text = job.execution_hints, job.scope.destination_repo or job.destination.ref
    ref = parse_ref(text) if text else None
    if ref is not None and (not isinstance(ref, TensorhubRef) or ref.digest):
        raise ValidationError(f"{text!r} cannot be published to: write it as 'owner/name'")
    tags = _texts(hints, "destination_repo_tags") or _texts(hints, "tags") or job.destination.tags
    if ref is not None and not tags and ":" in text:
        tags = (ref.tag,)
    flavor = str(hints.get("flavor") or (ref.flavor if ref is not None else ""))
    job_id = job.scope.job_id or (job.request_id if job.destination.ref else "")
    return Publication(
        kind=job.scope.kind,
        owner=job.owner,
        request_id=job.request_id,
        repo=f"{ref.owner}/{ref.repo}" if ref is not None else "",
        job_id=job_id,
        tags=check_tags(tag for tag in tags if tag.lower() != "latest"),
        flavor=flavor.lower() or DEFAULT_FLAVOR,
        keep_last=job.keep_last_checkpoints,
        lineage=_lineage(job.inputs.base_model_ref),
    )


def _texts(hints: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return a hint that is a list of texts, or one text."""
    value = hints.get(name)
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(one) for one in value) if isinstance(value, list | tuple) else ()


def _lineage(base_model: str) -> tuple[Lineage, ...]:
    """Return where the weights come from, as far as the job pins it."""
    from gen_worker.models.hub.wire import Lineage
    from gen_worker.models.refs import RefError, TensorhubRef, parse_prefixed_ref

    try:
        ref = parse_prefixed_ref(base_model)
    except RefError:
        return ()
    if not isinstance(ref, TensorhubRef) or not ref.digest:
        return ()
    return (
        Lineage(
            parent_repo=f"{ref.owner}/{ref.repo}",
            parent_checkpoint_id=ref.digest,
            relationship_kind="fine-tune",
        ),
    )
