"""Owning a socket path and the sidecar file beside it.

Two servers may start at the same moment on one path, and a killed one leaves its files behind. No
lock decides who wins: a socket is bound under a name of its own and hard-linked into place, which
only one process can do; a leftover is first renamed away, and given back when it turns out alive.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import WorkerError
from gen_worker.runtime.ndjson.address import TcpAddress, UnixAddress

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AddressInUseError", "Claim", "claim", "inherit", "sidecar_path"]

_BACKLOG = 1024
_PROBE_TIMEOUT_S = 1.0


class AddressInUseError(WorkerError, OSError):
    """Another server answers on this address, or it cannot be bound."""


class Claim:
    """A bound, listening socket and the files that announce it."""

    def __init__(
        self,
        address: UnixAddress | TcpAddress,
        listener: socket.socket,
        *,
        is_owner: bool = True,
    ) -> None:
        self.address = address
        self.listener = listener
        self._owned: dict[str, int] = {}
        if is_owner and isinstance(address, UnixAddress):
            self._owned[address.path] = os.stat(address.path).st_ino

    def announce(self, document: Mapping[str, object]) -> None:
        """Write the sidecar file; its presence means the server is ready."""
        path = sidecar_path(self.address)
        temporary = f"{path}.{os.getpid()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(document) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        self._owned[path] = os.stat(path).st_ino

    def release(self) -> None:
        """Close the socket and remove the files, unless somebody else replaced them."""
        self.listener.close()
        for path, inode in self._owned.items():
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        self._owned.clear()


def sidecar_path(address: UnixAddress | TcpAddress) -> str:
    """Return where a server on `address`, started in this directory, announces itself."""
    if isinstance(address, UnixAddress):
        return f"{address.path}.json"
    return os.path.abspath(".gen-worker.serve.json")


def claim(address: UnixAddress | TcpAddress) -> Claim:
    """Bind and listen.

    Raises:
        AddressInUseError: Another server holds the address.
    """
    if isinstance(address, UnixAddress):
        return Claim(address, _claim_unix(address.path))
    return _claim_tcp(address)


def _claim_tcp(address: TcpAddress) -> Claim:
    try:
        listener = socket.create_server(
            (address.host, address.port),
            family=socket.AF_INET6 if ":" in address.host else socket.AF_INET,
            backlog=_BACKLOG,
        )
    except OSError as error:
        raise AddressInUseError(
            f"cannot listen on {address}: {error.strerror or error}; choose another port"
        ) from error
    listener.setblocking(False)
    return Claim(TcpAddress(address.host, listener.getsockname()[1]), listener)


def _claim_unix(path: str) -> socket.socket:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    own = f"{path}.{os.getpid()}"
    listener = _bind_private(own, path)
    try:
        for _ in range(3):
            with contextlib.suppress(FileExistsError):
                os.link(own, path)
                return listener
            _clear_leftover(path)
    except BaseException:
        listener.close()
        raise
    finally:
        os.unlink(own)
    listener.close()
    raise AddressInUseError(f"{path!r} is being taken by other servers; give another --socket")


def _bind_private(own: str, path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(own)
    umask = os.umask(0o177)
    try:
        listener.bind(own)
    except OSError as error:
        listener.close()
        raise AddressInUseError(f"cannot listen on {path!r}: {error}") from error
    finally:
        os.umask(umask)
    listener.listen(_BACKLOG)
    return listener


def _clear_leftover(path: str) -> None:
    """Remove a socket nobody listens on any more; refuse when somebody does."""
    if not _is_socket(path):
        raise AddressInUseError(f"{path!r} is no socket: move it away, or give another --socket")
    if _answers(path):
        raise AddressInUseError(
            f"another server is listening on {path!r}: stop it, or give another --socket"
        )
    moved = f"{path}.{os.getpid()}.stale"
    try:
        os.rename(path, moved)
    except FileNotFoundError:
        return
    if _answers(moved):  # taken between the look and the rename: give it back
        with contextlib.suppress(FileExistsError):
            os.link(moved, path)
    os.unlink(moved)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return True  # gone in the meantime: the next attempt takes the place


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            return True
        return True


def inherit(address: UnixAddress | TcpAddress, descriptor: int) -> Claim:
    """Take over a listening socket that the parent process holds, and leave it to the parent."""
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    return Claim(address, listener, is_owner=False)
