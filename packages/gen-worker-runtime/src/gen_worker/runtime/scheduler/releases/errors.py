"""How releases fail: refused, changed while copied, damaged, unknown, in use, not written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.errors import ResourceError, RetryableError, UnknownFunctionError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "DamagedReleaseError",
    "NoOtherReleaseError",
    "ProjectChangedError",
    "RefusedReleaseError",
    "ReleaseInUseError",
    "ReleaseWriteError",
    "UnknownReleaseError",
]

_SHOWN = 20


class RefusedReleaseError(ValidationError):
    """A project cannot be published as it is; nothing was stored."""

    code = "release_refused"

    def __init__(self, project: str, problems: Iterable[str]) -> None:
        """Keep everything that is wrong.

        Args:
            project: Its folder.
            problems: What is wrong and what to do, one text each.
        """
        self.problems = tuple(problems)
        shown = "; ".join(self.problems[:_SHOWN])
        more = len(self.problems) - _SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        super().__init__(f"{project!r} cannot be published: {shown}{rest}")


class ProjectChangedError(RetryableError):
    """A file of the project changed while it was copied; nothing was stored."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path!r} changed while the project was copied: publish it again once it is still"
        )
        self.path = path


class DamagedReleaseError(ResourceError):
    """A release is not what was published."""

    def __init__(self, release_id: str, folder: str, path: str, found: str) -> None:
        """Keep the file.

        Args:
            release_id: The release.
            folder: Its folder.
            path: Below it.
            found: What is wrong with the file.
        """
        super().__init__(
            f"release {release_id} in {folder!r} is damaged: {path!r} {found}: publish the same "
            "project again, which mends it, or point its tags at another release"
        )
        self.release_id = release_id
        self.path = path


class ReleaseWriteError(ResourceError):
    """The folder of releases cannot be read or written; nothing was changed."""


class UnknownReleaseError(UnknownFunctionError):
    """There is no such release, endpoint or tag."""

    code = "release_not_found"


class ReleaseInUseError(ValidationError):
    """A tag or a request that has not ended names the release, so it stays."""

    code = "release_in_use"


class NoOtherReleaseError(ValidationError):
    """A tag has pointed to nothing else before, or has not been moved back."""

    code = "no_other_release"
