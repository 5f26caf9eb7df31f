"""What a container becomes: the value of `WORKER_MODE`, and the function that then runs.

Packages publish modes as entry points of the group `gen_worker.modes`, as they do kinds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gen_worker.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.settings import CoreSettings

__all__ = ["MODE_GROUP", "Mode", "mode_named"]

MODE_GROUP = "gen_worker.modes"
"""Entry-point group: name = a value of `WORKER_MODE`, value = a `Mode`."""

_PUBLISHERS = {"inference": "gen-worker-runtime", "trainer": "gen-worker-trainer"}


class Mode(Protocol):
    """Runs until the process is to end. Called once, in the main thread, logging configured."""

    def __call__(self, settings: CoreSettings, /) -> int:
        """Return the exit code; what it raises is logged, and the code is 1 then."""
        ...


def mode_named(name: str, *, known: Mapping[str, str] | None = None) -> Mode:
    """Return a mode; only one that is not known looks at installed packages.

    Args:
        name: Value of `WORKER_MODE`.
        known: Modes of the caller itself as `module:function`: looking at all that is installed
            takes as long as half of a worker's start.

    Raises:
        SettingsError: No installed package publishes it, or more than one does.
        ImportError: It cannot be imported.
    """
    home = (known or {}).get(name)
    if home is not None:
        module, _, function = home.partition(":")
        mode: Mode = getattr(__import__(module, fromlist=(function,)), function)
        return mode
    return _published(name)


def _published(name: str) -> Mode:
    from importlib.metadata import entry_points

    group = entry_points(group=MODE_GROUP)
    found = {entry.value: entry for entry in group if entry.name == name}
    if len(found) > 1:
        problem = f"WORKER_MODE {name!r} is published more than once, by {', '.join(sorted(found))}"
        raise SettingsError((f"{problem}: uninstall all but one",))
    if found:
        mode: Mode = next(iter(found.values())).load()
        return mode
    if name in _PUBLISHERS:
        problem = f"no installed package runs WORKER_MODE {name!r}: install {_PUBLISHERS[name]!r}"
        raise SettingsError((problem,))
    names = sorted({*_PUBLISHERS, *group.names})
    raise SettingsError((f"WORKER_MODE must be {' or '.join(names)}, not {name!r:.80}",))
