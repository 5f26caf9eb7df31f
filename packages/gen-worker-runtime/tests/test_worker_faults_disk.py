"""A worker process whose disk is full: what needs no file is served, the rest is refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.testing.orchestrator import Orchestrator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CODE = """
import os
from typing import Annotated
import msgspec
from gen_worker import Asset, AssetLimits, RequestContext, inference_function

class In(msgspec.Struct):
    text: str = ""
    file: Annotated[Asset, AssetLimits(max_bytes=50_000_000)] | None = None

class Out(msgspec.Struct):
    text: str = ""
    file: Asset | None = None

@inference_function
def echo(ctx: RequestContext, payload: In) -> Out:
    return Out(payload.text)

@inference_function
def measure(ctx: RequestContext, payload: In) -> Out:
    return Out(str(len(payload.file.read_bytes())))

@inference_function
def save(ctx: RequestContext, payload: In) -> Out:
    return Out(file=ctx.save_bytes("small.txt", b"small"))

@inference_function
def fill(ctx: RequestContext, payload: In) -> Out:
    with open(os.environ["HOME"] + "/fill", "wb", 0) as file:
        while True:
            file.write(bytes(1000))

@inference_function
def free(ctx: RequestContext, payload: In) -> Out:
    os.remove(os.environ["HOME"] + "/fill")
    return Out(" ".join(sorted(os.listdir(os.environ["HOME"] + "/jobs"))))
"""
LOCK = 'lock_version = 1\n[[functions]]\nname = "echo"\nmodule = "shop"\n'
SIZE = "4m"
TIMEOUT_S = 60.0
MOUNT = 'mount -t tmpfs -o size=$1 tmpfs "$2" && shift 2 && exec "$@"'


@pytest.fixture
def own_disk(tmp_path: Path) -> list[str]:
    """Return the beginning of a command that has a small disk of its own, gone with it."""
    (tmp_path / "disk").mkdir()
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("a small disk needs Linux's unshare")
    own_users = [] if os.geteuid() == 0 else ["-r"]
    command = [unshare, *own_users, "-m", "sh", "-c", MOUNT, "sh", SIZE, str(tmp_path / "disk")]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {tried.stderr.strip()}")
    return command


@pytest.fixture
def start(tmp_path: Path, own_disk: list[str]) -> Iterator[Any]:
    (tmp_path / "shop.py").write_text(CODE)
    (tmp_path / "endpoint.lock").write_text(LOCK)
    processes: list[subprocess.Popen[str]] = []
    disk = tmp_path / "disk"

    def start(address: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*own_disk, sys.executable, "-m", "gen_worker.entrypoint"],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(disk),
                "TMPDIR": str(disk),
                "WORKER_JOB_DIR": str(disk / "jobs"),
                "PYTHONDONTWRITEBYTECODE": "1",
                "GEN_WORKER_LOCK": "endpoint.lock",
                "ORCHESTRATOR_PUBLIC_ADDR": address,
                "WORKER_JWT": "dev-worker-jwt",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


async def test_a_worker_outlives_a_full_disk(start: Any) -> None:
    async with Orchestrator() as orchestrator:
        process = start(orchestrator.address)
        worker = await orchestrator.connected(timeout_s=TIMEOUT_S)

        async def ask(function: str, **payload: Any) -> Any:
            job = worker.submit(function, payload, hints={"output_format": "inline"})
            return await job.result(timeout_s=TIMEOUT_S)

        small = {"ref": "small.bin", "inline_bytes": b"x" * 1000}
        large = {"ref": "large.bin", "inline_bytes": b"x" * 8_000_000}
        assert (await ask("measure", file=small)).success
        for full in (False, True):
            if full:
                filled = await ask("fill")
                assert not filled.success
            refused = await ask("measure", file=large)
            assert (refused.success, refused.error_type) == (False, "resource")
            assert "No space left" in refused.safe_message
            assert (await ask("echo", text="no file")).success
            assert (await ask("save")).success
            assert (await ask("measure", file=small)).success is not full
        assert (await ask("free")).success
        assert (await ask("measure", file=small)).success
        assert len(worker.registrations) == 1
        process.terminate()
        _, log = await asyncio.to_thread(process.communicate, timeout=TIMEOUT_S)
        assert process.returncode == 0, log
