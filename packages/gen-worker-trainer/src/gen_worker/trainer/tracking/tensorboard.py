"""Writes event files that TensorBoard shows: curves, images of samples, and their prompts."""

from __future__ import annotations

import os
import re
import struct
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.trainer.tracking.protocol import TrackedRun, TrackingStatus

__all__ = ["TensorBoardTracker"]

_IMAGES = (".png", ".jpg", ".jpeg", ".gif")
_PNG = b"\x89PNG\r\n\x1a\n"
_STEP = re.compile(r"^step-\d+-?")
_FILE_VERSION = "brain.Event:2"


class TensorBoardTracker:
    """Needs the package `tensorboard`, and neither torch nor TensorFlow.

    An attempt that resumes a run writes a file of its own which says from which step on: what an
    earlier one has written of later steps is then no longer shown.
    """

    def __init__(self, directory: str = "tensorboard", flush_seconds: float = 10.0) -> None:
        """Prepare.

        Args:
            directory: Below that of the metrics, unless it is absolute.
            flush_seconds: At least so often is written what there is.

        Raises:
            RuntimeError: `tensorboard` is not installed.
        """
        try:
            protos = import_module("tensorboard.compat.proto")
            for name in ("event_pb2", "summary_pb2", "tensor_pb2", "types_pb2"):
                import_module(f"tensorboard.compat.proto.{name}")
            text = import_module("tensorboard.plugins.text.metadata")
            writer = import_module("tensorboard.summary.writer.event_file_writer")
        except ImportError:
            raise RuntimeError(
                "curves are written with tensorboard: pip install 'gen-worker[tensorboard]'"
            ) from None
        self._event: Any = protos.event_pb2
        self._summary: Any = protos.summary_pb2
        self._tensor: Any = protos.tensor_pb2
        self._types: Any = protos.types_pb2
        self._text_metadata: Any = text.create_summary_metadata
        self._open: Any = writer.EventFileWriter
        self._directory = directory
        self._flush_s = flush_seconds
        self._writer: Any = None

    def start(self, run: TrackedRun) -> None:
        folder = os.path.join(run.directory, self._directory)
        os.makedirs(folder, exist_ok=True)
        self._writer = self._open(folder, flush_secs=self._flush_s)
        event, step = self._event, run.start_step + 1
        begun = event.SessionLog(status=event.SessionLog.START)
        # Readers discard what other files have of this step and of later ones.
        self._writer.add_event(self._at(step, file_version=_FILE_VERSION))
        self._writer.add_event(self._at(step, session_log=begun))
        if run.start_step == 0:
            told = msgspec.json.format(msgspec.json.encode(run.hyperparams, enc_hook=str))
            self._add(0, self._text("hyperparams", f"```json\n{told.decode()}\n```"))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        make = self._summary.Summary.Value
        self._add(step, *(make(tag=name, simple_value=value) for name, value in metrics.items()))

    def log_sample(self, path: str, step: int) -> None:
        stem, suffix = os.path.splitext(os.path.basename(path))
        tag = "samples/" + (_STEP.sub("", stem) or "all")
        with open(path, "rb") as file:
            content = file.read()
        if suffix.lower() in _IMAGES:
            height, width = _size_of(content)
            image = self._summary.Summary.Image(
                encoded_image_string=content, height=height, width=width, colorspace=3
            )
            self._add(step, self._summary.Summary.Value(tag=tag, image=image))
        elif suffix == ".json":
            facts = msgspec.json.decode(content)
            self._add(step, self._text(tag + "/prompt", str(facts.get("prompt", ""))))

    def log_checkpoint(self, path: str, step: int) -> None:
        self._add(step, self._text("checkpoint", path))

    def finish(self, status: TrackingStatus) -> None:
        self._writer.close()

    def _text(self, tag: str, text: str) -> Any:
        tensor = self._tensor.TensorProto(
            dtype=self._types.DT_STRING, string_val=[text.encode("utf-8", "replace")]
        )
        metadata = self._text_metadata(display_name="", description="")
        return self._summary.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)

    def _add(self, step: int, *values: Any) -> None:
        self._writer.add_event(self._at(step, summary=self._summary.Summary(value=values)))

    def _at(self, step: int, **what: Any) -> Any:
        return self._event.Event(wall_time=time.time(), step=step, **what)


def _size_of(image: bytes) -> tuple[int, int]:
    """Return height and width of a PNG; zeros of another format, which a reader finds out."""
    if not image.startswith(_PNG) or len(image) < 24:
        return 0, 0
    width, height = struct.unpack(">II", image[16:24])
    return height, width
