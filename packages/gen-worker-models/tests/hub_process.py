"""A hub in a process of its own: `python hub_process.py DIRECTORY [name=value ...]`.

Prints its URL once it answers, and ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading

import msgspec
import uvicorn

from gen_worker.models.hub import HubOptions, LocalHub


def main(directory: str, *settings: str) -> None:
    values = dict(setting.split("=", 1) for setting in settings)
    options = msgspec.convert(values, HubOptions, strict=False)
    listener = socket.create_server(("127.0.0.1", 0))
    with LocalHub(directory, options=options, anonymous=("admin",)) as hub:
        config = uvicorn.Config(hub.app, log_level="error", lifespan="off", ws="none")
        server = uvicorn.Server(config)

        def follow_stdin() -> None:
            sys.stdin.read()
            os._exit(0)

        threading.Thread(target=follow_stdin, daemon=True).start()
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        asyncio.run(server.serve(sockets=[listener]))


if __name__ == "__main__":
    main(*sys.argv[1:])
