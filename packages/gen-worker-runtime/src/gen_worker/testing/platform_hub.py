"""A model hub on loopback, which can be out of reach."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gen_worker.errors import ValidationError
from gen_worker.models.hub import HubClient, LocalHub, publish_folder
from gen_worker.models.refs import TensorhubRef, parse_ref
from gen_worker.runtime.http import HttpServer, open_listener
from gen_worker.runtime.ndjson.address import TcpAddress
from gen_worker.testing.cable import Cable

if TYPE_CHECKING:
    import os
    from types import TracebackType

__all__ = ["PlatformHub"]


class PlatformHub:
    """A hub over a folder, and the cable that leads to it. An async context manager."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._listener = open_listener(TcpAddress("127.0.0.1", 0))
        host, port = self._listener.getsockname()[:2]
        self._hub = LocalHub(folder, anonymous=("admin",))
        self._server = HttpServer(self._hub.app, self._listener, grace_s=0.1)
        self._cable = Cable(f"{host}:{port}")
        self._own_url = f"http://{host}:{port}"
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where schedulers and workers find it."""
        return f"http://{self._cable.address}"

    async def publish(self, ref: str, folder: str | os.PathLike[str]) -> None:
        """Publish a folder under `owner/repo[:tag][#flavor]`.

        Raises:
            ValidationError: The ref is none of a hub, or is pinned.
        """
        parsed = parse_ref(ref)
        if not isinstance(parsed, TensorhubRef) or parsed.digest:
            raise ValidationError(f"{ref!r} cannot be published to: write it as 'owner/repo:tag'")

        def publish() -> None:
            with HubClient(self._own_url) as client:
                publish_folder(
                    client,
                    folder,
                    f"{parsed.owner}/{parsed.repo}",
                    tags=() if parsed.tag == "latest" else (parsed.tag,),
                    flavor=parsed.flavor or "default",
                )

        await asyncio.get_running_loop().run_in_executor(None, publish)

    def go_away(self) -> None:
        """Break every connection to it, and refuse new ones."""
        self._cable.is_refusing = True
        self._cable.cut()

    def come_back(self) -> None:
        """Accept connections again."""
        self._cable.is_refusing = False

    async def __aenter__(self) -> PlatformHub:
        await self._cable.__aenter__()
        is_ready = asyncio.Event()
        self._serving = asyncio.create_task(self._server.serve(is_ready.set))
        await is_ready.wait()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._cable.__aexit__(kind, error, traceback)
        self._server.stop()
        assert self._serving is not None
        await self._serving
        await asyncio.get_running_loop().run_in_executor(None, self._hub.close)
