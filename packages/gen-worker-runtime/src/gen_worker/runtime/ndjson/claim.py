"""Owning an address: a listening socket, and the sidecar file that announces it.

Two servers may start at the same moment on one path, and a killed one leaves its files behind. No
lock decides who wins: a socket is bound under a name of its own and hard-linked into place, which
only one process can do; a leftover is first renamed away, and given back when it turns out alive.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gen_worker.errors import WorkerError
from gen_worker.runtime.ndjson.address import TcpAddress, UnixAddress, parse_address
from gen_worker.runtime.ndjson.sidecar import (
    identity_of,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.runtime.ndjson.sidecar import Identity

__all__ = ["Claim", "ListenError", "claim", "inherit"]

_BACKLOG = 1024
"""Connections that may wait to be accepted: that many clients at once never have to try again."""
_PROBE_TIMEOUT_S = 1.0
_ATTEMPTS = 5
_MAX_PATH_BYTES = 107 if sys.platform == "linux" else 103


class ListenError(WorkerError, OSError):
    """The address cannot be listened on: another server holds it, or the system refuses."""


class Claim:
    """A bound, listening socket and the files that announce it."""

    def __init__(
        self,
        address: UnixAddress | TcpAddress,
        listener: socket.socket,
        owned: Mapping[str, Identity] = MappingProxyType({}),
    ) -> None:
        """Hold a listening socket.

        Args:
            address: Where it listens.
            listener: The socket.
            owned: Files to remove in the end, and which file each of them is.
        """
        self.address = address
        self.listener = listener
        self._owned = dict(owned)

    def announce(self, document: Mapping[str, object]) -> None:
        """Write the sidecar file; its presence means the server is ready.

        Raises:
            ListenError: The socket's path was taken by another server meanwhile, or the file
                cannot be written.
        """
        for path, identity in self._owned.items():
            if identity_of(path) != identity:
                raise ListenError(f"{path!r} was taken by another server; give another --socket")
        path = sidecar_path(self.address)
        try:
            self._owned[path] = write_sidecar(path, document)
        except OSError as error:
            raise ListenError(
                f"cannot announce the server in {path!r}: {error.strerror}; "
                "start it where that file can be written"
            ) from error

    def release(self) -> None:
        """Remove the files, unless somebody else replaced them, and close the socket."""
        for path, identity in reversed(self._owned.items()):
            with contextlib.suppress(OSError):
                if identity_of(path) == identity:
                    os.unlink(path)
        self._owned.clear()
        # Last: while it is open, the system gives its file's identity to nobody else.
        self.listener.close()


def claim(address: UnixAddress | TcpAddress) -> Claim:
    """Bind and listen, and remove what a killed server left.

    Raises:
        ListenError: Another server holds the address, or the system refuses it.
    """
    try:
        return _claim_unix(address) if isinstance(address, UnixAddress) else _claim_tcp(address)
    except ListenError:
        raise
    except OSError as error:
        raise ListenError(
            f"cannot listen on {address}: {error.strerror or error}; give another address"
        ) from error


def inherit(address: UnixAddress | TcpAddress, descriptor: int) -> Claim:
    """Take over a listening socket that the parent process holds, and leave it to the parent."""
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    if isinstance(address, TcpAddress):
        address = TcpAddress(address.host, listener.getsockname()[1])
    _forget_leftover(sidecar_path(address))
    return Claim(address, listener)


def _forget_leftover(path: str) -> None:
    """Remove a killed server's sidecar: until there is a new one, nobody is ready here."""
    with contextlib.suppress(OSError):  # what cannot be removed is told when it is to be replaced
        os.unlink(path)


# -- TCP -------------------------------------------------------------------------------------------


def _claim_tcp(address: TcpAddress) -> Claim:
    _refuse_shared_sidecar(sidecar_path(address))
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server(tuple(address), family=family, backlog=_BACKLOG)
    except UnicodeError as error:
        raise ListenError(f"{address.host!r} is no name of a host: {error}") from error
    listener.setblocking(False)
    return Claim(TcpAddress(address.host, listener.getsockname()[1]), listener)


def _refuse_shared_sidecar(path: str) -> None:
    """Leave the sidecar of a living server alone: all TCP servers of a folder have the same."""
    other = read_sidecar(path)
    if other and _is_alive(other):
        raise ListenError(
            f"the server on {other['listen']} announces itself in {path!r}: "
            "start this one in another folder"
        )
    _forget_leftover(path)


def _is_alive(announced: Mapping[str, Any]) -> bool:
    try:
        address = parse_address(str(announced.get("listen")))
        if not isinstance(address, TcpAddress) or not _exists(announced.get("pid")):
            return False
        socket.create_connection(address, _PROBE_TIMEOUT_S).close()
    except (OSError, ValueError):
        return False
    return True


def _exists(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:  # somebody else's
        return True
    except (OSError, OverflowError):
        return False
    return True


# -- unix sockets ----------------------------------------------------------------------------------


def _claim_unix(address: UnixAddress) -> Claim:
    path = address.path
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise ListenError(
            f"{path!r} is too long for a socket ({_MAX_PATH_BYTES} bytes): give a shorter --socket"
        )
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    # As short as most names, or a path that just fits would not.
    own = os.path.join(folder, f".gw-{os.urandom(3).hex()}")
    listener = _bind_private(own)
    try:
        _put_in_place(own, path)
        identity = identity_of(own)
        assert identity is not None, "it is linked at both places"
        _forget_leftover(sidecar_path(address))
    except BaseException:
        listener.close()
        raise
    finally:
        os.unlink(own)
    return Claim(address, listener, {path: identity})


def _bind_private(own: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    umask = os.umask(0o177)
    try:
        listener.bind(own)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(umask)
    listener.listen(_BACKLOG)
    return listener


def _put_in_place(own: str, path: str) -> None:
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(FileExistsError):
            os.link(own, path)
            return
        _clear_leftover(path)
    raise ListenError(f"{path!r} is being taken by other servers; give another --socket")


def _clear_leftover(path: str) -> None:
    """Remove a socket nobody listens on any more; refuse when somebody does."""
    if not _is_socket(path):
        raise ListenError(f"{path!r} is no socket: move it away, or give another --socket")
    if _answers(path):
        raise ListenError(
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
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True  # gone in the meantime: the next attempt takes the place


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # too busy to answer, or somebody else's: not ours to remove
            return True
        return True
