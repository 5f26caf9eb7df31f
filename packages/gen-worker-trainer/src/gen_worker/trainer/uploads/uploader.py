"""Sends what a run makes while the run goes on, and tells how it ended."""

from __future__ import annotations

import itertools
import logging
import math
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.cancel import CancelToken
from gen_worker.errors import AuthError, CanceledError, safe_text
from gen_worker.models.store.durable import remove_tree
from gen_worker.trainer.errors import ArtifactUploadError
from gen_worker.trainer.uploads.artifacts import checkpoint_files, staged
from gen_worker.trainer.uploads.callbacks import checkpoint_body, sample_body
from gen_worker.trainer.uploads.lanes import Lane

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from gen_worker.models.hub import Uploaded
    from gen_worker.trainer.uploads.artifacts import CheckpointFiles
    from gen_worker.trainer.uploads.callbacks import Callbacks
    from gen_worker.trainer.uploads.publication import HubUploads

__all__ = ["BackgroundUploader"]

_QUEUED: Mapping[str, Any] = {"state": "queued"}
_SKIPPED: Mapping[str, Any] = {"state": "skipped"}
_METRICS_WAITING = 256
_ARTIFACTS_WAITING = 16

_log = logging.getLogger("gen_worker.trainer")


class _Metrics(NamedTuple):
    step: int
    values: Mapping[str, float]


class _Sample(NamedTuple):
    local_path: str
    step: int


class BackgroundUploader:
    """An `ArtifactUploader` that keeps no step waiting.

    Metrics that pile up are joined, the newer value of a name for the older; samples that pile up
    are left out with a warning; for a checkpoint there is always room, sooner or later. Metrics and
    samples that cannot be sent are warned of. A checkpoint that cannot be sent, after all its
    tries, fails the next call of any kind.
    """

    def __init__(
        self,
        callbacks: Callbacks,
        hub: HubUploads | None,
        cancel: CancelToken,
        *,
        staging: str,
        drain_seconds: float,
        capacity: int = _ARTIFACTS_WAITING,
        metrics_capacity: int = _METRICS_WAITING,
        warn: Callable[[str], object] = _log.warning,
    ) -> None:
        """Prepare; threads begin with the first thing to send.

        Args:
            callbacks: Tells whoever started the job.
            hub: Takes the bytes; None keeps them here.
            cancel: The one that ends what `hub` does; tripped by `close`.
            staging: Directory for files that wait, on the disk of the checkpoints. This one's
                alone; emptied with the first of them.
            drain_seconds: How long the end of a run waits for what is not sent yet.
            capacity: Of checkpoints and samples that wait.
            metrics_capacity: Of metrics that wait; at least 2.
            warn: Told of what is lost.
        """
        self._callbacks = callbacks
        self._hub = hub
        self._cancel = cancel
        self._staging = staging
        self._drain_seconds = drain_seconds
        self._warn = warn
        self._numbers = itertools.count()
        self._failure: BaseException | None = None
        self._finals: dict[str, Uploaded | None] = {}
        """What the hub said of final checkpoints, by their paths; None while they wait."""
        self._metrics: Lane[_Metrics] = Lane(
            "trainer-metrics", self._send_metrics, capacity=max(2, metrics_capacity), merge=_joined
        )
        self._artifacts: Lane[CheckpointFiles | _Sample] = Lane(
            "trainer-artifacts", self._send_artifact, capacity=capacity
        )
        self._has_staged = False

    def __enter__(self) -> BackgroundUploader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End at once: what is not sent stays unsent, what is not published is given up."""
        self._cancel.cancel("shutdown")
        self._metrics.close()
        self._artifacts.close()
        if self._hub is not None:
            self._hub.close()
        self._callbacks.close()
        if self._has_staged:
            remove_tree(self._staging)

    # What the loop calls

    def upload_metrics(self, *, metrics: Mapping[str, float], step: int) -> Mapping[str, Any]:
        self._raise_failure()
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        if not finite or not self._callbacks.wants("metrics"):
            return _SKIPPED
        self._metrics.put(_Metrics(step, finite))
        return _QUEUED

    def upload_sample(self, *, local_path: str, step: int) -> Mapping[str, Any]:
        self._raise_failure()
        if self._artifacts.put(_Sample(os.fspath(local_path), step)):
            return _QUEUED
        self._warn(f"the sample of step {step} is not sent: too much waits already")
        return _SKIPPED

    def upload_checkpoint(self, *, local_path: str, step: int) -> Mapping[str, Any]:
        """Have a checkpoint sent, all of its files; they may be removed from their place meanwhile.

        Raises:
            AuthError: The token was refused for this one or an earlier one.
            ArtifactUploadError: An earlier one could not be sent; or there is no place for any.
        """
        self._raise_failure()
        self._queue(checkpoint_files(os.fspath(local_path), step))
        return _QUEUED

    def drain(self, seconds: float) -> bool:
        """Wait until everything is sent; False when it is not after so many seconds."""
        deadline = time.monotonic() + seconds
        is_done = self._artifacts.drain(deadline)
        return self._metrics.drain(deadline) and is_done

    def upload_terminal(
        self,
        *,
        status: str,
        step: int,
        final_checkpoint: str | None,
        error: str = "",
        drain_seconds: float | None = None,
    ) -> Mapping[str, Any]:
        """Tell how the run ended, once everything else is sent.

        A run that is `completed` has its final checkpoint sent first, if that was not done, and its
        revision published; the revision of any other is given up. When this fails, it may be called
        again with another status.

        Args:
            status: `completed`, `failed` or `canceled`.
            step: Completed steps.
            final_checkpoint: Path of its main file.
            error: `<category>:<message>`.
            drain_seconds: Instead of what the job says.

        Raises:
            AuthError: A token is refused.
            ArtifactUploadError: A checkpoint, the publication or this callback did not get through.
        """
        limit_s = self._drain_seconds if drain_seconds is None else drain_seconds
        final = os.fspath(final_checkpoint) if final_checkpoint else ""
        if status == "completed":
            self._complete(final, step, limit_s)
        else:
            self._give_up(limit_s)
        sent = self._finals.get(final)
        facts = {
            "status": status,
            "final_checkpoint": final,
            "final_checkpoint_ref": sent.ref if sent else "",
            "final_checkpoint_sha256": sent.sha256 if sent else "",
            "error": error,
        }
        # Whatever ended the rest: this is told.
        self._callbacks.post("terminal", step, facts, CancelToken())
        return {"state": "sent"}

    # The end

    def _complete(self, final: str, step: int, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        self._raise_failure()
        if final and final not in self._finals:
            self._queue(checkpoint_files(final, step, is_final=True))
        is_done = self.drain(deadline - time.monotonic())
        self._raise_failure()
        if not is_done:
            self._cancel.cancel("deadline")
            raise ArtifactUploadError(
                f"what the run made was not sent within {limit_s:g} s: raise upload_drain_seconds"
            )
        if self._hub is not None:
            self._hub.publish()

    def _give_up(self, limit_s: float) -> None:
        if self._failure is not None or not self.drain(limit_s):
            self._cancel.cancel("shutdown")
        if self._hub is not None:
            self._hub.abort()

    # In the background

    def _queue(self, files: CheckpointFiles) -> None:
        if self._hub is not None:
            self._hub.require_scope()
            if not self._has_staged:
                remove_tree(self._staging)  # of a process that was killed
                self._has_staged = True
            files = staged(files, os.path.join(self._staging, str(next(self._numbers))))
        if files.is_final:
            self._finals[files.local_path] = None
        if not self._artifacts.put(files, patience_s=self._drain_seconds):
            raise ArtifactUploadError(
                f"the checkpoint of step {files.step} found no room among those that wait to be "
                f"sent within {self._drain_seconds:g} s"
            )

    def _send_metrics(self, metrics: _Metrics) -> None:
        try:
            facts = {"metrics": metrics.values}
            self._callbacks.post("metrics", metrics.step, facts, self._cancel)
        except CanceledError:
            return
        except Exception as error:
            self._lost(f"the metrics of step {metrics.step}", error)

    def _send_artifact(self, item: CheckpointFiles | _Sample) -> None:
        if isinstance(item, _Sample):
            self._send_sample(item)
            return
        try:
            if self._failure is None:  # the run fails anyway
                self._send_checkpoint(item)
        except BaseException as error:
            self._failure = error
        finally:
            self._unstage(item)

    def _send_sample(self, sample: _Sample) -> None:
        path, step = sample
        try:
            sent = None
            if self._hub is not None and os.path.isfile(path):
                sent = self._hub.send_sample(path, step, os.path.basename(path))
            self._callbacks.post("sample", step, sample_body(path, sent), self._cancel)
        except CanceledError:
            return
        except Exception as error:
            self._lost(f"the sample of step {step}", error)

    def _send_checkpoint(self, files: CheckpointFiles) -> None:
        sent = self._hub.send_checkpoint(files) if self._hub is not None else None
        if files.is_final:
            self._finals[files.local_path] = sent
        facts = checkpoint_body(files, sent)
        self._callbacks.post("checkpoint", files.step, facts, self._cancel)

    def _unstage(self, files: CheckpointFiles) -> None:
        for path in files.paths.values():
            if path.startswith(self._staging + os.sep):
                number = path[len(self._staging) + 1 :].partition(os.sep)[0]
                remove_tree(os.path.join(self._staging, number))
                return

    def _raise_failure(self) -> None:
        """Fail as the checkpoint did that could not be sent."""
        error = self._failure
        if error is None:
            return
        if isinstance(error, AuthError):
            raise AuthError(str(error)) from error
        raise ArtifactUploadError(f"a checkpoint could not be sent: {error}") from error

    def _lost(self, what: str, error: Exception) -> None:
        self._warn(f"{what} could not be sent: {safe_text(str(error), type(error).__name__)}")


def _joined(older: _Metrics, newer: _Metrics) -> _Metrics:
    return _Metrics(newer.step, {**older.values, **newer.values})
