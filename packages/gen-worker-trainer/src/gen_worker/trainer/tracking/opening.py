"""Makes the trackers that a job names."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.errors import StartupContractError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.trainer.tracking.protocol import Tracker

__all__ = ["trackers_of"]

_BUILT_IN = {"tensorboard": "gen_worker.trainer.tracking.tensorboard:TensorBoardTracker"}
_METHODS = ("start", "log_metrics", "log_sample", "log_checkpoint", "finish")


def trackers_of(entries: Sequence[str | dict[str, Any]]) -> list[tuple[str, Tracker]]:
    """Return trackers with their names.

    Args:
        entries: `tensorboard`, `module:Class`, or such a name under `tracker` beside the arguments
            of its class.

    Raises:
        StartupContractError: One cannot be made; all that cannot are named.
    """
    made: list[tuple[str, Tracker]] = []
    problems: list[str] = []
    for entry in entries:
        options = dict(entry) if isinstance(entry, dict) else {"tracker": entry}
        name = str(options.pop("tracker", ""))
        try:
            made.append((name, _made(name, options)))
        except Exception as error:  # whatever the class of somebody else raises
            problems.append(f"{name!r}: {error}")
    if problems:
        raise StartupContractError("startup.invalid_trackers", "trackers: " + "; ".join(problems))
    return made


def _made(name: str, options: dict[str, Any]) -> Tracker:
    module_name, colon, symbol = _BUILT_IN.get(name, name).partition(":")
    if not (module_name and colon and symbol):
        known = ", ".join(_BUILT_IN)
        raise ValueError(f"this names no tracker: write module:Class, or one of {known}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    tracker: Tracker = getattr(importlib.import_module(module_name), symbol)(**options)
    missing = [one for one in _METHODS if not callable(getattr(tracker, one, None))]
    if missing:
        raise TypeError(f"it is missing {', '.join(missing)}")
    return tracker
