"""Runs a program that trains by itself, and reads from its lines how far it is."""

from __future__ import annotations

import atexit
import re
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.errors import TrainingCanceled

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from gen_worker.trainer.steps import StepContext

__all__ = ["CommandTrainer"]

_LOOK_S = 0.1
_LAST_LINES = 20
_FOLDER = "engine"


class CommandState:
    """What is known of the program."""

    def __init__(self) -> None:
        self.steps = 0
        self.reached = 0
        """The step that its last line tells of."""
        self.metrics: dict[str, float] = {}
        """Of that line."""
        self.process: subprocess.Popen[str] | None = None
        self.directory = Path()
        self.resume_from: Path | None = None
        """A checkpoint of the program's own."""
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)


class CommandTrainer:
    """A trainer whose steps are those that a program says it has done.

    The program runs on while the runtime reports; its checkpoints are those it has written last.
    When the run is canceled the program gets SIGTERM, and `grace_s` later is killed.

    The job needs something to count steps with: `"mock_batches": [null], "dataset": {"epochs": 0}`.

    Example:
        class Toolkit(CommandTrainer):
            def command(self, ctx, directory, resume_from):
                config = {"steps": ctx.job.max_steps, "resume": str(resume_from or "")}
                (directory / "config.json").write_text(json.dumps(config))
                return ["toolkit", "train", "config.json"]

            def checkpoint(self, directory):
                return max(directory.glob("out/*.safetensors"), key=os.path.getmtime, default=None)
    """

    progress = r"step[ =:]+(?P<step>\d+).*?loss[ =:]+(?P<loss>[-+.\deE]+)"
    """Found in a line that tells of a step: the group `step`, and one for each metric."""
    grace_s = 20.0

    def command(
        self, ctx: StepContext, directory: Path, resume_from: Path | None
    ) -> Sequence[str | os.PathLike[str]]:
        """Write the program's configuration, and return its command line; to be written.

        Args:
            ctx: Of the job.
            directory: Empty; the program runs in it. It is gone once this process ends.
            resume_from: What `checkpoint` has returned before a run was broken off.
        """
        raise NotImplementedError

    def checkpoint(self, directory: Path) -> Path | None:
        """Return the newest whole file or folder to go on with, or to keep; None without one."""
        return None

    # -- the hooks ---------------------------------------------------------------------------------

    def setup(self, ctx: StepContext) -> None: ...

    def configure(self, ctx: StepContext) -> CommandState:
        return CommandState()

    def prepare_batch(self, raw_batch: Any, state: CommandState, ctx: StepContext) -> Any:
        return raw_batch

    def train_step(self, batch: Any, state: CommandState, ctx: StepContext) -> Any:
        from gen_worker.trainer.steps import StepControlHints, StepResult

        if state.process is None:
            self._start(state, ctx)
        is_over = False
        while state.reached <= state.steps and not is_over:
            is_over = not self._read(state)
        if is_over:
            self._wait(state, ctx)
        state.steps += 1
        metrics = state.metrics if state.reached == state.steps else {}
        return StepResult(metrics=metrics, control=StepControlHints(stop=is_over))

    def state_dict(self, state: CommandState) -> dict[str, Any]:
        return {"steps": state.steps}

    def load_state_dict(
        self, state: CommandState, payload: dict[str, Any], ctx: StepContext
    ) -> None:
        state.steps = state.reached = int(payload["steps"])

    def save_checkpoint(
        self, *, state: CommandState, step: int, output_dir: Path, final: bool, ctx: StepContext
    ) -> Mapping[str, Any]:
        if final and state.process is not None:  # it may write more behind its last step
            while self._read(state):
                pass
            self._wait(state, ctx)
        found = self.checkpoint(state.directory) if state.process is not None else None
        if found is None:
            return {}
        (output_dir / _FOLDER).mkdir()
        copy = shutil.copytree if found.is_dir() else shutil.copy2
        copy(found, output_dir / _FOLDER / found.name)
        return {"engine": found.name}

    def load_checkpoint(
        self,
        *,
        state: CommandState,
        checkpoint_dir: str,
        payload: dict[str, Any],
        ctx: StepContext,
    ) -> None:
        state.resume_from = next(Path(checkpoint_dir, _FOLDER).glob("*"), None)

    # ----------------------------------------------------------------------------------------------

    def _start(self, state: CommandState, ctx: StepContext) -> None:
        folder = tempfile.TemporaryDirectory(prefix="gen-worker-engine-")
        state.directory = Path(folder.name)
        command = self.command(ctx, state.directory, state.resume_from)
        state.process = process = subprocess.Popen(
            command,
            cwd=state.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # or Ctrl-C would reach it as well
        )
        atexit.register(folder.cleanup)
        atexit.register(_end, process, 0.0)  # called before the other
        arguments = (process, ctx)
        name = "gen-worker-engine-watch"
        threading.Thread(target=self._watch, args=arguments, name=name, daemon=True).start()

    def _watch(self, process: subprocess.Popen[str], ctx: StepContext) -> None:
        """End the program of a run that is canceled, whatever the runtime waits for."""
        while process.poll() is None:
            if ctx.is_canceled is not None and ctx.is_canceled():
                _end(process, self.grace_s)
            try:
                process.wait(_LOOK_S)
            except subprocess.TimeoutExpired:
                continue

    def _read(self, state: CommandState) -> bool:
        """Take a line; False when there are no more."""
        assert state.process is not None, "it was started"
        assert state.process.stdout is not None, "it is a pipe"
        line = state.process.stdout.readline()
        if not line:
            return False
        print(line, end="", flush=True)
        state.last_lines.append(line)
        found = re.search(self.progress, line)
        if found is not None:
            named = found.groupdict()
            state.reached = max(state.reached, int(named.pop("step")))
            state.metrics = {name: float(text) for name, text in named.items() if text is not None}
        return True

    def _wait(self, state: CommandState, ctx: StepContext) -> None:
        """Wait for the program's end, which is near: it writes no more."""
        assert state.process is not None, "it was started"
        code = state.process.wait()
        if ctx.is_canceled is not None and ctx.is_canceled():
            raise TrainingCanceled
        if code != 0:
            raise RuntimeError(
                f"{state.process.args!r} ended with exit code {code}; its last lines:\n"
                + "".join(state.last_lines)
            )


def _end(process: subprocess.Popen[str], grace_s: float) -> None:
    """Ask a program to end, and kill it if it does not in time."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
