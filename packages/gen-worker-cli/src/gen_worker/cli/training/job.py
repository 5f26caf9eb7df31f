"""Which job is run, with which changes, and where it writes."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.cli.failures import UsageError
from gen_worker.trainer.settings import TrainerSettings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

__all__ = ["OpenJob", "opened"]

_FOLDER = ".gen-worker-train"
_REMEMBERED = "job.json"


class OpenJob(NamedTuple):
    """A job that is about to run."""

    settings: TrainerSettings
    """With the job spec and the folder of this run."""
    fields: dict[str, Any]
    """The job spec."""

    @property
    def max_steps(self) -> int:
        return int(self._number("max_steps"))

    @property
    def title(self) -> str:
        """What a person calls it."""
        return str(self.fields.get("request_id") or "a job without request_id")

    def remember(self) -> None:
        """Have `--resume` without a job find it, until another one has begun."""
        _write_private(os.path.join(self.settings.artifacts_dir, _REMEMBERED), self.fields)

    def _number(self, key: str) -> float:
        try:
            return float(self.fields.get(key) or 0)
        except (TypeError, ValueError):  # the runtime says what is wrong with it
            return 0


@contextmanager
def opened(args: argparse.Namespace) -> Iterator[OpenJob]:
    """Give the job that the command names, its changed spec in a file of its own.

    Raises:
        UsageError: There is no such job spec, or a change does not fit it.
        SettingsError: A setting is wrong.
    """
    from gen_worker.settings import load

    folder = args.artifacts_dir or _folder_of_settings()
    path = args.job or _last(folder, is_resumed=args.resume)
    fields = _changed(_decoded(path), args)
    with ExitStack() as stack:
        if args.check:  # which leaves nothing behind
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gen-worker-train-"))
        folder = folder or os.path.join(_FOLDER, _file_name(fields.get("request_id")))
        spec = os.path.join(folder, f".job-{os.getpid()}.json")
        try:
            os.makedirs(folder, exist_ok=True)
            _write_private(spec, fields)
        except OSError as error:
            raise UsageError(f"{folder!r} cannot be written to: {error.strerror}") from error
        stack.callback(_remove, spec)
        yield OpenJob(load(TrainerSettings, job_spec_path=spec, artifacts_dir=folder), fields)


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _folder_of_settings() -> str:
    """Return what the operator has said; empty when only the default of containers is left."""
    from gen_worker.settings import explain

    found = next(one for one in explain(TrainerSettings) if one.name == "TRAINER_ARTIFACTS_DIR")
    return "" if found.source == "default" else str(found.value or "")


def _last(folder: str, *, is_resumed: bool) -> str:
    """Return the spec of the job that was begun last in a folder."""
    if not is_resumed:
        raise UsageError(
            "which job? name its job spec: gen-worker train JOB.json; or --resume for the last one"
        )
    known = [folder] if folder else []
    with suppress(FileNotFoundError):
        known = known or [entry.path for entry in os.scandir(_FOLDER)]
    paths = [os.path.join(one, _REMEMBERED) for one in known]
    found = sorted((os.path.getmtime(path), path) for path in paths if os.path.isfile(path))
    if not found:
        raise UsageError(
            f"no job has begun in {folder or './' + _FOLDER!r}: name one, gen-worker train JOB.json"
        )
    return found[-1][1]


def _decoded(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            fields = msgspec.json.decode(file.read())
    except OSError as error:
        raise UsageError(f"job spec {path!r} cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise UsageError(f"job spec {path!r} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UsageError(f"job spec {path!r} has to be one JSON object")
    return fields


def _changed(fields: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    for change in args.changes:
        key, equals, text = change.partition("=")
        if not equals or not all(key.split(".")):
            raise UsageError(f"--set {change!r} has to be KEY=VALUE, such as dataset.batch_size=4")
        _put(fields, key.split("."), _value(text))
    if args.max_steps is not None:
        fields["max_steps"] = args.max_steps
    if args.resume:
        fields["resume_from_latest"] = True
    return fields


def _put(fields: dict[str, Any], keys: list[str], value: Any) -> None:
    *outer, last = keys
    for number, key in enumerate(outer, 1):
        inner = fields.get(key)
        if inner is None:
            inner = fields[key] = {}
        if not isinstance(inner, dict):
            name = ".".join(keys[:number])
            raise UsageError(f"--set {'.'.join(keys)}: {name} is {inner!r}, and has no keys")
        fields = inner
    fields[last] = value


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return text


def _file_name(request_id: object) -> str:
    """Return a name of its own for each id, whatever characters that has."""
    from urllib.parse import quote

    name = quote(str(request_id or "job"), safe=" ")
    return "%2E" + name[1:] if name.startswith(".") else name


def _write_private(path: str, fields: dict[str, Any]) -> None:
    """Write a spec, which may hold a token; whoever reads meanwhile has the whole old one."""
    temporary = f"{path}.{os.getpid()}.part"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n")
    os.replace(temporary, path)
