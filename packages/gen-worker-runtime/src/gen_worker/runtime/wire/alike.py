"""Messages of plain fields that are called alike in our values and on the wire, but for some.

Most messages are of this kind. Those of every job are written out, since a loop over names costs
more than all the rest of them.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from gen_worker.runtime.wire import commands, reports
from gen_worker.runtime.wire.records import Record

__all__ = [
    "ASSIGNMENT",
    "CAPABILITIES",
    "COMPUTE",
    "DIAGNOSTIC_LOG",
    "DISABLED_FUNCTION",
    "DOWNLOAD",
    "DRAIN",
    "DRAIN_RESULT",
    "FILE",
    "LOAD",
    "LOAD_RESULT",
    "LORA",
    "REF_STATUS",
    "STREAM_DONE",
    "STREAM_ERROR",
    "UNLOAD",
    "UNLOAD_RESULT",
    "Alike",
]

R = TypeVar("R", bound=Record)


class Alike(Generic[R]):
    """One such message, both ways."""

    def __init__(self, record: type[R], **renamed: str) -> None:
        """Compare the names.

        Args:
            record: Our value.
            **renamed: What fields are called on the wire that are called otherwise there.
        """
        self._record = record
        self._names = [(name, renamed.get(name, name)) for name in record.__struct_fields__]

    def read(self, wire: Any) -> R:
        """Return what a message says."""
        return self._record(**{ours: getattr(wire, theirs) for ours, theirs in self._names})

    def fill(self, value: R, wire: Any) -> None:
        """Say the same in a message."""
        for ours, theirs in self._names:
            setattr(wire, theirs, getattr(value, ours))


COMPUTE = Alike(commands.ResolvedCompute)
LORA = Alike(commands.ResolvedLora)
FILE = Alike(commands.ResolvedRepoFile)
LOAD = Alike(commands.LoadModel)
DOWNLOAD = Alike(commands.DownloadModel)
UNLOAD = Alike(commands.UnloadModel)
DRAIN = Alike(commands.Drain)
DISABLED_FUNCTION = Alike(commands.DisabledFunction, function="function_name")
REF_STATUS = Alike(commands.RefStatus)

ASSIGNMENT = Alike(reports.Assignment, attempt_epoch="assignment_attempt_epoch")
DIAGNOSTIC_LOG = Alike(reports.DiagnosticLog)
STREAM_DONE = Alike(reports.StreamDone, function="function_name")
STREAM_ERROR = Alike(reports.StreamError, function="function_name")
LOAD_RESULT = Alike(reports.LoadModelResult)
UNLOAD_RESULT = Alike(reports.UnloadModelResult)
CAPABILITIES = Alike(reports.FunctionCapabilities)
DRAIN_RESULT = Alike(reports.DrainResult)
