"""A hub in a process of its own: `python hub_process.py DIRECTORY PORT`; it is killed."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading

import uvicorn

from gen_worker.models.hub import HubOptions, LocalHub


def main(directory: str, port: str) -> None:
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=64)
    with LocalHub(directory, options=HubOptions(part_bytes=64 * 1024)) as hub:
        config = uvicorn.Config(hub.app, log_level="error", lifespan="off", ws="none")
        print(hub.issue_capability(publish=["acme/model"]), flush=True)
        threading.Thread(target=sys.stdin.read, daemon=True).start()
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main(*sys.argv[1:])
