"""A trainer in a child process: what its launcher hands over, and how that runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.settings import load
from gen_worker.trainer.cancel import signals_going_to
from gen_worker.trainer.checkpoints.files import write_file
from gen_worker.trainer.config import places_of
from gen_worker.trainer.following import EventFile
from gen_worker.trainer.settings import TrainerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = [
    "CONTRACT_VERSION",
    "TrainerSubprocessContractV1",
    "read_subprocess_contract",
    "run_subprocess",
    "write_subprocess_contract",
]

CONTRACT_VERSION = "v1"

_COMMAND = (sys.executable, "-m", "gen_worker.entrypoint")
_encode = msgspec.json.Encoder(order="sorted").encode


class TrainerSubprocessContractV1(msgspec.Struct, frozen=True, kw_only=True):
    """What a child process trains, and where it writes."""

    trainer_plugin: str
    """`module:Class`."""
    job_spec_path: str
    contract_version: str = CONTRACT_VERSION
    arrow_ipc_path: str = ""
    """An Arrow IPC stream file whose batches take the place of the job's dataset."""
    checkpoints_dir: str = "/tmp/training/checkpoints"
    samples_dir: str = "/tmp/training/samples"
    events_path: str | None = None
    """None leaves it to the child."""
    extra_env: dict[str, str] = {}
    """Stronger than what the other fields come to."""

    def __post_init__(self) -> None:
        """Refuse what no child could run; every mistake is named."""
        problems = [
            f"{name} must not be empty"
            for name in ("trainer_plugin", "job_spec_path")
            if not getattr(self, name).strip()
        ]
        if self.contract_version != CONTRACT_VERSION:
            problems.append(
                f"contract_version is {self.contract_version!r}, known is {CONTRACT_VERSION!r}"
            )
        if problems:
            raise ValueError("; ".join(problems))

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return msgspec.structs.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> TrainerSubprocessContractV1:
        """Read a contract that is decoded already; unknown keys are left out.

        Raises:
            ValueError: A value is missing, or is not what it is to be.
        """
        try:
            return msgspec.convert(dict(fields), cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"this is no trainer contract: {error}") from error

    def to_environment(self) -> dict[str, str]:
        """Return the environment variables that say the same to a trainer process."""
        named = {
            "TRAINER_PLUGIN": self.trainer_plugin,
            "TRAINER_JOB_SPEC_PATH": self.job_spec_path,
            "TRAINER_CHECKPOINTS_DIR": self.checkpoints_dir,
            "TRAINER_SAMPLES_DIR": self.samples_dir,
            "TRAINER_EVENTS_PATH": self.events_path or "",
            "TRAINER_ARROW_IPC_PATH": self.arrow_ipc_path,
        }
        given = {name: value for name, value in named.items() if value}
        return {"WORKER_MODE": "trainer", **given, **self.extra_env}


def write_subprocess_contract(
    path: str | os.PathLike[str], contract: TrainerSubprocessContractV1
) -> None:
    """Write a contract as compact JSON; folders are made, and readers see a whole one."""
    target = os.path.abspath(path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    write_file(target, _encode(contract.to_json()))


def read_subprocess_contract(path: str | os.PathLike[str]) -> TrainerSubprocessContractV1:
    """Read a contract.

    Raises:
        OSError: There is none, or it cannot be read.
        ValueError: It is no contract.
    """
    with open(path, "rb") as file:
        body = file.read()
    try:
        fields = msgspec.json.decode(body)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{str(path)!r} is not one JSON object")
    return TrainerSubprocessContractV1.from_json(fields)


def run_subprocess(
    contract: TrainerSubprocessContractV1,
    *,
    observer: Callable[[dict[str, Any]], object] | None = None,
    command: Sequence[str] = _COMMAND,
    cwd: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Run a trainer in a child process, and return its exit code.

    SIGTERM and SIGINT are passed on, when this is the main thread: the child keeps a checkpoint
    and ends. It has a session of its own, so that Ctrl-C does not reach it twice.

    Args:
        contract: What it is told.
        observer: Given the events that the child writes, from another thread.
        command: The program, which reads the same environment as the trainer's entry point.
        cwd: Its folder; None is this one.
        environ: Its environment before the contract; None is this process's.

    Returns:
        The exit code; 128 and the signal's number of a child that a signal has ended.

    Raises:
        OSError: The program cannot be started.
        SettingsError: The environment has no sound settings.
    """
    whole = {**(os.environ if environ is None else environ), **contract.to_environment()}
    with ExitStack() as stack:
        if observer is not None:
            places = places_of(load(TrainerSettings, environ=whole))
            path = os.path.join(cwd or os.curdir, places.events)
            stack.callback(EventFile(path, observer).close)
        child = subprocess.Popen(command, cwd=cwd, env=whole, start_new_session=True)
        stack.enter_context(_ended_with_us(child))
        stack.enter_context(signals_going_to(lambda number, _: child.send_signal(number)))
        code = child.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _ended_with_us(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave no child behind when something here fails."""
    try:
        yield
    except BaseException:
        child.kill()
        child.wait()
        raise
