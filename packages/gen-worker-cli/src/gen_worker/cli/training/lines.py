"""A run as lines that programs and people read: one per report, checkpoint, sample, and the end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.cli.training.progress import Progress, Report

__all__ = ["EventLines", "PlainLines"]

_encode = msgspec.json.Encoder(order="sorted", enc_hook=str).encode
_TOLD = {
    "started": ("request_id",),
    "checkpoint": ("step", "path"),
    "sample": ("step", "path"),
    "completed": ("step", "final_checkpoint"),
    "canceled": ("step", "error"),
    "failed": ("step", "error"),
}


class _Lines:
    """Writes lines; a reader that has gone stops no run."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._is_read = True

    def _write(self, line: bytes) -> None:
        if not self._is_read:
            return
        view = memoryview(line + b"\n")
        try:
            while view:
                view = view[self._out.write(view) :]
        except OSError as error:
            self._is_read = False
            text = f"stdout cannot be written ({error.strerror}); the run goes on without"
            print(f"gen-worker train: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is held back."""


class EventLines(_Lines):
    """The events as they are in the file."""

    def show(self, event: Mapping[str, Any], _report: Report | None, _progress: Progress) -> None:
        if event:
            self._write(_encode(event))


class PlainLines(_Lines):
    """`metric step=5 max_steps=20 steps_per_s=2.31 eta_s=6.5 train/loss=0.25` and the like."""

    def show(self, event: Mapping[str, Any], report: Report | None, progress: Progress) -> None:
        if report is not None:
            self._write(_report_line(report, progress).encode())
        keys = _TOLD.get(event.get("event", ""))
        if keys is not None:
            facts = [f"{key}={_text(event.get(key))}" for key in keys]
            if event["event"] == "started":
                facts.append(f"step={progress.start_step}")
            self._write(" ".join([event["event"], *facts]).encode())


def _report_line(report: Report, progress: Progress) -> str:
    facts: dict[str, Any] = {"step": report.step, "max_steps": progress.max_steps}
    if report.steps_per_s is not None:
        facts["steps_per_s"] = report.steps_per_s
    if report.eta_s is not None:
        facts["eta_s"] = report.eta_s
    facts.update(report.metrics)
    return " ".join(["metric", *(f"{name}={_text(value)}" for name, value in facts.items())])


def _text(value: object) -> str:
    """Return a value without blanks around or in it, but for those of a quoted text."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and value and not any(one in value for one in ' "\n\t\r='):
        return value
    return msgspec.json.encode(value).decode()
