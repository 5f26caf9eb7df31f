"""Downloading 2 GiB in 4 files over loopback, verified, against the fastest tools there are.

nginx serves from the page cache; every tool writes to the same disk into files whose space was
reserved before. The peers, in this file, verify nothing: four `curl` processes side by side,
`aria2c -x8`, and the plain HTTP download of huggingface-hub on four threads. The first pairs choose
the fastest of them. What hashing costs is measured against the same fetcher with hashers that do
nothing. The resident set is that of a process which does nothing but the download.

    python bench/fetch.py [--size MIB] [--blocks N] [--save]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from harness import Row, paired, save

from gen_worker.models.fetch import Fetcher, FileToFetch, Location, download
from gen_worker.models.fetch.digests import hash_file
from gen_worker.models.net import Opener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FILES = 4
CONNECTIONS = 4
LIMITED_BYTES_PER_S = 1_000_000_000
MAX_RESIDENT_MIB = 150
HERE = "bench/fetch.py"

CONFIG = """
worker_processes 2; daemon off; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
    client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
    uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
    server {{ listen 127.0.0.1:{port}; root {root}/files; }}
    server {{ listen 127.0.0.1:{limited}; root {root}/files; limit_rate {rate}; }}
}}
"""


class Bench:
    """The server's files, and a directory to download into."""

    def __init__(self, root: Path, size: int, port: int, limited_port: int) -> None:
        self.root = root
        self.size = size
        self.target = root / "target"
        self.target.mkdir()
        self.opener = Opener(allow_private=True)
        self.origin = f"http://127.0.0.1:{port}"
        self.limited = f"http://127.0.0.1:{limited_port}"
        (root / "files").mkdir()
        self.digests: dict[str, str] = {}
        for number in range(FILES):
            path = root / "files" / f"f{number}"
            with path.open("wb") as file:
                for _ in range(size >> 20):
                    file.write(os.urandom(1 << 20))
            self.digests[path.name] = str(hash_file(str(path), "blake3", lambda: None)[0])
        os.sync()  # or the disk is busy with the server's files

    def timed(self, download: Callable[[], None], *, flush: bool = False) -> float:
        """Return the GiB/s of a download into reserved files."""
        for name in self.digests:
            with (self.target / name).open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.size)
        since = time.perf_counter()
        download()
        if flush:
            for name in self.digests:
                with (self.target / name).open("rb") as file:
                    os.fsync(file.fileno())
        seconds = time.perf_counter() - since
        assert all((self.target / name).stat().st_size == self.size for name in self.digests)
        self.clear()
        return FILES * self.size / seconds / 2**30

    def clear(self) -> None:
        for path in self.target.iterdir():
            path.unlink()

    def ours(self, origin: str = "", *, durable: bool = False) -> None:
        self.clear()  # it reserves the space itself, and would check what is there
        fetcher = Fetcher(self.opener, connections=CONNECTIONS, durable=durable)
        fetcher.fetch(
            [
                FileToFetch(
                    destination=str(self.target / name),
                    size_bytes=self.size,
                    digest=digest,
                    locations=(Location(f"{origin or self.origin}/{name}"),),
                )
                for name, digest in self.digests.items()
            ]
        )

    def unhashed(self, origin: str = "") -> None:
        nothing = NoHasher()
        with (
            patch.object(download, "new_hasher", lambda *_: nothing),
            patch.object(download, "block_hasher", lambda: nothing),
            patch.object(download.Download, "digest", property(lambda self: self._digest)),
        ):
            self.ours(origin)

    def curl(self) -> None:
        running = []
        for name in self.digests:
            # Not `-o`, which would give the reserved space back.
            with (self.target / name).open("r+b") as file:
                command = ["curl", "-s", "-S", "-f", f"{self.origin}/{name}"]
                running.append(subprocess.Popen(command, stdout=file))
        assert [process.wait() for process in running] == [0] * FILES

    def aria2c(self) -> None:
        options = [
            "-x8",
            "-s8",
            f"-j{FILES}",
            "-q",
            "--file-allocation=falloc",
            "-d",
            str(self.target),
        ]
        urls = "".join(f"{self.origin}/{name}\n" for name in self.digests)
        self.clear()  # it reserves the space itself, or else resumes
        subprocess.run(["aria2c", *options, "-i", "-"], input=urls, text=True, check=True)

    def huggingface_hub(self) -> None:
        from huggingface_hub.file_download import http_get

        def get(name: str) -> None:
            with (self.target / name).open("r+b") as file:
                http_get(f"{self.origin}/{name}", file, expected_size=self.size)

        threads = [threading.Thread(target=get, args=(name,)) for name in self.digests]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class NoHasher:
    """A hasher that looks at nothing."""

    def update(self, data: memoryview) -> None:
        return

    def hexdigest(self) -> str:
        return "0" * 64

    def copy(self) -> NoHasher:
        return self


def fastest(bench: Bench) -> tuple[str, Callable[[], None]]:
    """Return the fastest of the peers here."""
    peers: dict[str, Callable[[], None]] = {"curl": bench.curl, "aria2c": bench.aria2c}
    with contextlib.suppress(ImportError):
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        peers["huggingface_hub"] = bench.huggingface_hub
    rates = {name: max(bench.timed(peer) for _ in range(3)) for name, peer in peers.items()}
    print("peers, GiB/s:", ", ".join(f"{name} {rate:.2f}" for name, rate in rates.items()))
    best = max(rates, key=lambda name: rates[name])
    return best, peers[best]


def rows(bench: Bench, blocks: int) -> list[Row]:
    name, peer = fastest(bench)
    total = f"{FILES * bench.size / 2**30:.2g} GiB"
    shared: dict[str, Any] = {"unit": "GiB/s", "blocks": blocks}
    return [
        paired(
            f"download {total}, verified, against {name}",
            lambda: bench.timed(bench.ours),
            lambda: bench.timed(peer),
            peer_source=f"{HERE} ({name})",
            goal="at least x1.00",
            passes=lambda ours, peer, ratio: ratio >= 1.0,
            **shared,
        ),
        paired(
            f"download {total}, both flushed, against {name}",
            lambda: bench.timed(lambda: bench.ours(durable=True)),
            lambda: bench.timed(peer, flush=True),
            peer_source=f"{HERE} ({name})",
            goal="at least x1.00",
            passes=lambda ours, peer, ratio: ratio >= 1.0,
            **shared,
        ),
        paired(
            "hashing, server at full speed",
            lambda: bench.timed(bench.ours),
            lambda: bench.timed(bench.unhashed),
            peer_source=f"{HERE} (no hashing)",
            goal="at least x0.80",
            passes=lambda ours, peer, ratio: ratio >= 1 / 1.25,
            **shared,
        ),
        paired(
            "hashing, server limited to 1 GB/s",
            lambda: bench.timed(lambda: bench.ours(bench.limited)),
            lambda: bench.timed(lambda: bench.unhashed(bench.limited)),
            peer_source=f"{HERE} (no hashing)",
            goal="at least x0.95",
            passes=lambda ours, peer, ratio: ratio >= 1 / 1.05,
            **shared,
        ),
        paired(
            "resident set of a process that downloads",
            lambda: resident_mib(bench),
            lambda: float(MAX_RESIDENT_MIB),
            unit="MiB",
            peer_source=f"{HERE} (the bar)",
            blocks=2,
            goal=f"under {MAX_RESIDENT_MIB} MiB",
            passes=lambda ours, peer, ratio: ours < peer,
        ),
    ]


def resident_mib(bench: Bench) -> float:
    """Return the most memory a process of its own had while it downloaded everything."""
    code = """
import sys
from gen_worker.models.fetch import Fetcher, FileToFetch, Location
from gen_worker.models.net import Opener
origin, target, size, *digests = sys.argv[1:]
Fetcher(Opener(allow_private=True), durable=False).fetch([
    FileToFetch(destination=f"{target}/f{n}", size_bytes=int(size), digest=digest,
                locations=(Location(f"{origin}/f{n}"),))
    for n, digest in enumerate(digests)
])
# Not `getrusage`, whose maximum a process takes over from the one that started it.
status = open("/proc/self/status").read()
print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
"""
    arguments = [bench.origin, str(bench.target), str(bench.size), *bench.digests.values()]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    bench.clear()
    return float(done.stdout)


@contextlib.contextmanager
def serving(root: Path) -> Iterator[tuple[int, int]]:
    """Run nginx over `root/files`; give its port, and the port where it is limited."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        port, limited = (sock.getsockname()[1] for sock in sockets)
    rate = LIMITED_BYTES_PER_S // CONNECTIONS
    config = root / "nginx.conf"
    config.write_text(CONFIG.format(root=root, port=port, limited=limited, rate=rate))
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    command = [nginx, "-p", str(root), "-e", str(root / "error.log"), "-c", str(config)]
    process = subprocess.Popen(command)
    try:
        _wait_for(port)
        yield port, limited
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    until = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=512, help="MiB of each of the 4 files")
    parser.add_argument("--blocks", type=int, default=7)
    options, _ = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory(
        prefix="fetch-bench-", dir=os.environ.get("BENCH_DIR")
    ) as place:
        root = Path(place)
        root.chmod(0o755)  # nginx gives its rights up
        with serving(root) as (port, limited):
            bench = Bench(root, options.size << 20, port, limited)
            save("fetch", rows(bench, options.blocks))


if __name__ == "__main__":
    main(sys.argv[1:])
