"""One call to make the ports of a laptop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.context.local import run_blocking
from gen_worker.ports import Ports
from gen_worker.runtime.local.files import LocalFiles
from gen_worker.runtime.local.models import LocalModels
from gen_worker.runtime.local.publisher import StubPublisher

if TYPE_CHECKING:
    from gen_worker.ports import Events

__all__ = ["local_ports"]


def local_ports(
    *,
    events: Events,
    output_dir: str | None = None,
    allow_local_files: bool = True,
    offline: bool = False,
    cas_dir: str | None = None,
) -> Ports:
    """Return the ports of this machine. Nothing is read or made before it is needed.

    Publishing only says what it would do; `publishing.publishing_ports` gives them a hub.

    Args:
        events: Where telemetry goes, such as `JsonLineEvents(sys.stderr)`.
        output_dir: Default `GEN_WORKER_LOCAL_OUTPUT_DIR`, else `./.gen-worker-run/outputs`.
        allow_local_files: Whether payloads may name files of this machine. Only where the caller
            is the user of this machine.
        offline: Only changes what errors advise: this host never uses the network.
        cas_dir: Content store of models; default `TENSORHUB_CAS_DIR`, else `cas` below
            `TENSORHUB_CACHE_DIR`.
    """
    files = LocalFiles(output_dir, allow_local_files=allow_local_files, cas_dir=cas_dir)
    return Ports(
        files=files,
        events=events,
        models=LocalModels(events, cas_dir=cas_dir, offline=offline),
        publisher=StubPublisher(files, events),
        run=run_blocking,
        repeats_within_s=None,
    )
