"""Everything that a job's `inputs` name, as paths of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.models.settings import load_model_settings
from gen_worker.trainer.inputs.downloads import Downloads
from gen_worker.trainer.inputs.names import failing_as, local_path, read_url
from gen_worker.trainer.inputs.repositories import Repositories

if TYPE_CHECKING:
    from types import TracebackType

    from gen_worker.cancel import CancelToken
    from gen_worker.models.settings import ModelSettings
    from gen_worker.trainer.config import RunConfig
    from gen_worker.trainer.inputs.names import UrlInput

__all__ = ["Materialized", "materialize"]


class Materialized(msgspec.Struct, frozen=True, kw_only=True):
    """A job's inputs. What comes from this machine's store stays there until this is closed."""

    model_handles: dict[str, str]
    """For `StepContext`: `base_model_dir` and `base_model_ref`; empty without a base model."""
    parquet_paths: tuple[str, ...]
    """Of the refs, or what `dataset.parquet_paths` says where there are none."""
    find_checkpoint: Callable[[], str | None]
    """Fetches the checkpoint to go on from; see `resume_path`."""
    kept: ExitStack

    @property
    def resume_path(self) -> str | None:
        """JSON of the checkpoint to go on from, its directory beside it; None without one.

        It is fetched when it is asked for: a later attempt has checkpoints of its own.

        Raises:
            InputMaterializationError: It cannot be had.
            AuthError: The hub refuses the token.
            CanceledError: The fetching was to stop.
        """
        return self.find_checkpoint()

    def close(self) -> None:
        """Let the store remove what it has to; also done when the process ends."""
        self.kept.close()

    def __enter__(self) -> Materialized:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def materialize(
    config: RunConfig,
    *,
    cancel: CancelToken | None = None,
    settings: ModelSettings | None = None,
    store: str | None = None,
) -> Materialized:
    """Have the inputs of a job here; what an earlier attempt has fetched is not fetched again.

    An input is a path or `file:` URL, used in place; an `http` or `https` URL, whose digest may
    follow as `#sha256=<hex>` or `#blake3=<hex>`; or a ref, `owner/repo[:tag][#flavor]` or
    `owner/repo@blake3:<digest>`. The job's token, or else the hub's, is sent to the hub alone.
    Only a job that nobody orchestrates may name URLs of private addresses.

    Args:
        config: Of the job.
        cancel: Ends it.
        settings: Which hub, and how downloads are made; by default those of the environment.
        store: Directory of the content store of models and datasets; None is the machine's.

    Raises:
        InputMaterializationError: One cannot be had; the text names it and says why.
        AuthError: The hub refuses the token.
        CanceledError: `cancel` was tripped.
    """
    kept = ExitStack()
    with ExitStack() as unless_whole:
        unless_whole.callback(kept.close)
        inputs = _Inputs(config, settings or load_model_settings(), kept, store, cancel)
        job = config.job
        found = Materialized(
            model_handles=inputs.model(job.inputs.base_model_ref),
            parquet_paths=inputs.datasets(job.inputs.dataset_parquet_refs)
            or job.dataset.parquet_paths,
            find_checkpoint=lambda: (
                inputs.checkpoint(job.inputs.resume_checkpoint_ref)
                or job.resume_checkpoint_path
                or None
            ),
            kept=kept,
        )
        unless_whole.pop_all()
    return found


class _Inputs:
    def __init__(
        self,
        config: RunConfig,
        settings: ModelSettings,
        kept: ExitStack,
        store: str | None,
        cancel: CancelToken | None,
    ) -> None:
        token = config.token or settings.hub_token
        self._root = config.places.inputs
        self._downloads = Downloads(
            self._root,
            hub_url=settings.hub_url,
            hub_token=token,
            allow_private=not config.is_orchestrated,
            cancel=cancel,
        )
        kept.callback(self._downloads.close)
        self._repositories = Repositories(
            kept, settings, token=token, owner=config.job.owner, store=store, cancel=cancel
        )

    def model(self, text: str) -> dict[str, str]:
        if not text:
            return {}
        with failing_as("base model", text):
            path = local_path(text)
            if path is None:
                url = read_url(text, "weights.bin")
                if url is None:
                    path = self._repositories.model(text)
                else:
                    (path,) = self._downloads.fetch("models", [url])
            directory = path if os.path.isdir(path) else os.path.dirname(path)
        return {"base_model_dir": directory, "base_model_ref": text}

    def datasets(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        """Return the files of all, in order; URLs are fetched at the same time."""
        found: list[list[str]] = []
        urls: dict[int, UrlInput] = {}
        for text in texts:
            with failing_as("dataset", text):
                path = local_path(text)
                url = read_url(text, "data", ".parquet") if path is None else None
                if path is not None:
                    found.append(_parquet_files(path))
                elif url is not None:
                    urls[len(found)] = url
                    found.append([])
                else:
                    found.append(self._repositories.dataset(text))
        if urls:
            shown = ", ".join(one.url.partition("?")[0] for one in urls.values())
            with failing_as("dataset", shown):
                paths = self._downloads.fetch("datasets", list(urls.values()))
            for index, path in zip(urls, paths, strict=True):
                found[index] = [path]
        return tuple(path for paths in found for path in paths)

    def checkpoint(self, text: str) -> str | None:
        if not text:
            return None
        with failing_as("checkpoint", text):
            path = local_path(text)
            if path is not None:
                return path
            url = read_url(text, "checkpoint", ".json")
            if url is not None:
                return self._downloads.fetch_checkpoint(url)
            return self._repositories.checkpoint(text, os.path.join(self._root, "resume"))


def _parquet_files(path: str) -> list[str]:
    """Return a file, or the Parquet files below a directory."""
    if not os.path.isdir(path):
        return [path]
    found = sorted(
        os.path.join(folder, name)
        for folder, _, names in os.walk(path)
        for name in names
        if name.lower().endswith(".parquet")
    )
    if not found:
        raise ValidationError("there are no *.parquet files in the directory")
    return found
