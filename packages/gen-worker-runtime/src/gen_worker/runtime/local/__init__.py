"""The laptop as a host: files and models of this machine, nothing published, no network."""

from gen_worker.runtime.local.events import JsonLineEvents
from gen_worker.runtime.local.files import LocalFiles
from gen_worker.runtime.local.host import local_ports
from gen_worker.runtime.local.models import LocalModels
from gen_worker.runtime.local.publisher import StubPublisher

__all__ = ["JsonLineEvents", "LocalFiles", "LocalModels", "StubPublisher", "local_ports"]
