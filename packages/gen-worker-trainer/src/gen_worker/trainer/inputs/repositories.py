"""Inputs that are refs: models and data in this machine's store, checkpoints in a job's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import ModelResolutionError, ValidationError
from gen_worker.models.refs import TensorhubRef, parse_prefixed_ref
from gen_worker.trainer.checkpoints.draft import MANIFEST
from gen_worker.trainer.checkpoints.files import write_file

if TYPE_CHECKING:
    from contextlib import ExitStack

    from gen_worker.cancel import CancelToken
    from gen_worker.models.hub import HubClient
    from gen_worker.models.settings import ModelSettings
    from gen_worker.models.snapshot import Snapshot
    from gen_worker.models.sources import LocalModel, Sources

__all__ = ["Repositories"]

_DATASET_FILES = "__cozy_snapshot_manifest__"
"""Key of a dataset's schema that lists its files; must match what a dataset is published with."""


class Repositories:
    """Has what refs mean, and keeps it while `kept` is open. Not thread-safe."""

    def __init__(
        self,
        kept: ExitStack,
        settings: ModelSettings,
        *,
        token: str,
        owner: str,
        store: str | None,
        cancel: CancelToken | None,
    ) -> None:
        """Bind; nothing is opened yet.

        Args:
            kept: Closes what was opened, and lets go of what is here.
            settings: Which hub, and how much of the network.
            token: For the hub.
            owner: On whose behalf the hub is asked.
            store: Directory of the content store; None is the machine's.
            cancel: Ends a fetch.
        """
        self._kept = kept
        self._settings = settings
        self._token = token
        self._owner = owner
        self._store = store
        self._cancel = cancel
        self._client: HubClient | None = None
        self._sources: Sources | None = None

    def model(self, text: str) -> str:
        """Return the directory of a model; `hf:owner/repo` names one of Hugging Face.

        Raises:
            ValidationError: The text is no ref.
            ModelResolutionError: It means nothing that may be had.
            ArtifactTransferError: Its files could not be fetched.
        """
        return self._held(text).root

    def dataset(self, text: str) -> list[str]:
        """Return the Parquet files of a repository, or of a dataset, of the hub, by name.

        Raises:
            ValidationError: The text is no ref of a hub, or means no Parquet files.
            ArtifactTransferError: It could not be fetched.
        """
        ref = _hub_ref(text, "dataset")
        try:
            found = self._held(text)
        except ModelResolutionError as error:
            if error.status_code != 404 or ref.digest:
                raise
            snapshot = self._dataset_snapshot(ref)
            if snapshot is None:
                raise
            found = self._held(text, snapshot)
        files = [name for name in sorted(found.files) if name.lower().endswith(".parquet")]
        if not files:
            raise ValidationError(f"none of its {len(found.files)} files is *.parquet")
        return [os.path.join(found.root, *name.split("/")) for name in files]

    def checkpoint(self, text: str, root: str) -> str:
        """Have a whole checkpoint below `root`, and return the path of its JSON.

        Raises:
            ValidationError: The text is no ref of a hub, or means no checkpoint.
            ArtifactTransferError: It could not be fetched.
        """
        from gen_worker.models.hub import pull_folder

        ref, client = _hub_ref(text, "checkpoint"), self._hub()
        found = client.resolve(ref, cancel=self._cancel).snapshot
        if MANIFEST not in {file.path for file in found.files}:
            raise ValidationError(f"it has no {MANIFEST}, so it is no checkpoint of a training run")
        pinned = TensorhubRef(owner=ref.owner, repo=ref.repo, digest=found.checkpoint_id)
        directory = os.path.join(root, found.digest, "checkpoint")
        pull_folder(client, pinned, directory, cancel=self._cancel)
        with open(os.path.join(directory, MANIFEST), "rb") as file:
            write_file(directory + ".json", file.read())
        return directory + ".json"

    def _held(self, text: str, resolved: Snapshot | None = None) -> LocalModel:
        from gen_worker.models.choice import ModelChoice
        from gen_worker.models.sources import open_sources

        choice = ModelChoice.of(parse_prefixed_ref(text))
        if self._sources is None:
            from gen_worker.models.assembly import open_store

            self._sources = self._kept.enter_context(
                open_sources(
                    open_store(self._store, self._settings),
                    self._settings,
                    hub=self._hub() if self._settings.hub_url else None,
                    may_resolve=True,
                )
            )
        return self._kept.enter_context(
            self._sources.hold(choice, resolved=resolved, token=self._cancel)
        )

    def _hub(self) -> HubClient:
        from gen_worker.models.hub import HubClient

        if self._client is None:
            if not self._settings.hub_url:
                raise ValidationError("no hub is configured: set TENSORHUB_PUBLIC_URL")
            client = HubClient(self._settings.hub_url, self._token, owner=self._owner)
            self._client = self._kept.enter_context(client)
        return self._client

    def _dataset_snapshot(self, ref: TensorhubRef) -> Snapshot | None:
        """Return the files of a published dataset; None when there is none."""
        from gen_worker.models.snapshot import SnapshotFile, parse_blake3, snapshot_of

        found = self._hub().find_dataset(ref.owner, ref.repo, tag=ref.tag)
        schema = (found or {}).get("schema")
        listed = schema.get(_DATASET_FILES) if isinstance(schema, dict) else None
        if not listed:
            return None
        try:
            entries = msgspec.convert(listed, list[_DatasetFile])
        except msgspec.ValidationError as error:
            raise ValidationError(f"its list of files is none: {error}") from error
        return snapshot_of(
            SnapshotFile(path=one.path, size_bytes=one.size_bytes, blake3=parse_blake3(one.digest))
            for one in entries
            if one.path.lower().endswith(".parquet")
        )


class _DatasetFile(msgspec.Struct):
    path: str
    digest: str
    size_bytes: int


def _hub_ref(text: str, what: str) -> TensorhubRef:
    ref = parse_prefixed_ref(text)
    if not isinstance(ref, TensorhubRef):
        raise ValidationError(
            f"it is on {ref.provider!r}, and a {what} is fetched from the hub alone: download it "
            "and give its path"
        )
    return ref
