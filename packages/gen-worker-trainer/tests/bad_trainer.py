"""A trainer that fails where a test wants it to: `fails` names a hook, `nth` which of its calls."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class Failing:
    """Counts batches."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def _call(self, hook: str, ctx: Any = None, *, is_final: bool = False) -> None:
        if ctx is not None:
            self.wishes = ctx.job.hyperparams
        self.calls[hook] = self.calls.get(hook, 0) + 1
        nth = self.wishes.get("nth", 1)
        if self.wishes.get("fails") != hook:
            return
        if is_final if nth == "final" else self.calls[hook] == nth:
            kinds = {"RuntimeError": RuntimeError, "OSError": OSError, "SystemExit": SystemExit}
            raise kinds[self.wishes.get("kind", "RuntimeError")](f"{hook} is broken")

    def setup(self, ctx: Any) -> None:
        self._call("setup", ctx)

    def configure(self, ctx: Any) -> dict[str, Any]:
        self._call("configure", ctx)
        return {"seen": [], "generate_sample": self.generate_sample}

    def load_state_dict(self, state: dict[str, Any], payload: dict[str, Any], ctx: Any) -> None:
        self._call("load_state_dict", ctx)
        state["seen"] = payload["seen"]

    def load_checkpoint(self, *, state: Any, checkpoint_dir: Any, payload: Any, ctx: Any) -> None:
        del state, checkpoint_dir, payload
        self._call("load_checkpoint", ctx)

    def prepare_batch(self, raw_batch: Any, state: Any, ctx: Any) -> Any:
        del state
        self._call("prepare_batch", ctx)
        return raw_batch

    def train_step(self, batch: Any, state: dict[str, Any], ctx: Any) -> Any:
        self._call("train_step", ctx)
        state["seen"].append(batch)
        loss = float(self.wishes.get("loss", 0.5))
        return type("Result", (), {"metrics": {"loss": loss}})()

    def state_dict(self, state: dict[str, Any]) -> dict[str, Any]:
        is_final = len(state["seen"]) == 4 and self.calls.get("state_dict", 0) >= 4
        self._call("state_dict", is_final=is_final)
        return {"seen": state["seen"]}

    def save_checkpoint(
        self, *, state: Any, step: int, output_dir: Path, final: bool, ctx: Any
    ) -> dict[str, Any]:
        (output_dir / "seen.json").write_text(json.dumps(state["seen"]))
        (output_dir / "more.bin").write_bytes(bytes(int(self.wishes.get("bytes", 10))))
        self._call("save_checkpoint", ctx, is_final=final)
        return {"primary_path": "seen.json", "step": step}

    def generate_sample(self, *, prompt: str, ctx: Any) -> dict[str, Any]:
        self._call("generate_sample", ctx)
        return {"made": prompt}


class Missing:
    """Has no `train_step`."""

    def setup(self, ctx: Any) -> None: ...
    def configure(self, ctx: Any) -> None: ...
    def prepare_batch(self, raw_batch: Any, state: Any, ctx: Any) -> None: ...
    def state_dict(self, state: Any) -> None: ...
    def load_state_dict(self, state: Any, payload: Any, ctx: Any) -> None: ...


class Needy(Failing):
    def __init__(self, weights: str) -> None:
        super().__init__()
        self.weights = weights


class Uninformative(Failing):
    def train_step(self, batch: Any, state: dict[str, Any], ctx: Any) -> Any:
        super().train_step(batch, state, ctx)
        return 0.5


class Stateless(Failing):
    def state_dict(self, state: dict[str, Any]) -> Any:
        return list(state["seen"])


def function(ctx: Any) -> None: ...


class Counting(Failing):
    """Takes batches of any kind."""

    def prepare_batch(self, raw_batch: Any, state: Any, ctx: Any) -> Any:
        return super().prepare_batch(raw_batch.num_rows, state, ctx)
