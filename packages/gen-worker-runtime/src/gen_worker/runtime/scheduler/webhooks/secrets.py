"""The secrets that webhooks are signed with: one file, from which every owner's own is derived.

An owner who knows the own secret can forge nobody else's webhooks, and nothing has to be kept of
an owner.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from typing import TYPE_CHECKING

from gen_worker.errors import FatalError
from gen_worker.models.store.private import read_or_write_private
from gen_worker.runtime.scheduler.webhooks.signing import SECRET_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["WebhookSecrets"]

_BYTES = 32


class WebhookSecrets:
    """The file with the scheduler's secrets, the newest first, at most two. Blocking.

    Another process may rotate it: it is read again when it has changed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Make the file where there is none.

        Args:
            path: In a folder that is private to the user, and exists.

        Raises:
            FatalError: It cannot be written or read, or is not such a file.
        """
        self.path = os.fspath(path)
        self._version: tuple[int, int] = (0, 0)
        self._secrets: tuple[bytes, ...] = ()
        new = secrets.token_bytes(_BYTES)
        try:
            read_or_write_private(self.path, lambda: _lines((new,)))
        except OSError as error:
            raise self._unwritable(error) from error
        self._read()

    def of(self, owner: str) -> tuple[str, ...]:
        """Return what an owner's webhooks are signed with, each `whsec_…`: the newest first.

        Raises:
            FatalError: The file cannot be read, or is not such a file.
        """
        return tuple(_derived(secret, owner) for secret in self._read())

    def rotate(self) -> None:
        """Put a new secret before the present one; the one before that does not count any more.

        Every webhook is signed with both until the next call: receivers have time until then.
        """
        self._write((secrets.token_bytes(_BYTES), *self._read()[:1]))

    def __repr__(self) -> str:
        return f"<WebhookSecrets {self.path!r}>"

    def _read(self) -> tuple[bytes, ...]:
        try:
            status = os.stat(self.path)
            version = (status.st_mtime_ns, status.st_ino)
            if version != self._version:
                with open(self.path, encoding="ascii") as file:
                    self._secrets = tuple(bytes.fromhex(line) for line in file if line.strip())
                self._version = version
        except (OSError, ValueError) as error:
            raise FatalError(
                f"the webhook secrets {self.path!r} cannot be read: bring back a copy, or remove "
                "the file and give receivers the new secret"
            ) from error
        if not self._secrets or any(len(secret) < _BYTES for secret in self._secrets):
            raise FatalError(
                f"{self.path!r} holds no webhook secrets: bring back a copy, or remove the file "
                "and give receivers the new secret"
            )
        return self._secrets

    def _write(self, some: Sequence[bytes]) -> None:
        """Write the file whole or not at all."""
        temporary = f"{self.path}.{os.getpid()}.new"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(_lines(some))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> FatalError:
        return FatalError(
            f"the webhook secrets {self.path!r} cannot be written ({error.strerror}): let the "
            "scheduler's user write the folder"
        )


def _lines(some: Sequence[bytes]) -> bytes:
    return b"".join(b"%b\n" % secret.hex().encode() for secret in some)


def _derived(secret: bytes, owner: str) -> str:
    key = hmac.digest(secret, b"webhook\0" + owner.encode(), hashlib.sha256)
    return SECRET_PREFIX + base64.b64encode(key).decode("ascii")
