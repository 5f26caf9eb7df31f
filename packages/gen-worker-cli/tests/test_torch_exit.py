"""A command that loaded torch ends as quietly as any other."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

MODULE = """
import msgspec
import torch._inductor.runtime.triton_heuristics  # loads the compiler's native types
from gen_worker import RequestContext, inference_function

class In(msgspec.Struct):
    pass

class Out(msgspec.Struct):
    total: float

@inference_function
def add(ctx: RequestContext, payload: In) -> Out:
    return Out(float(torch.ones(3).sum()))
"""


def test_nothing_is_reported_as_leaked(tmp_path: Path) -> None:
    (tmp_path / "adding.py").write_text(MODULE)
    command = [sys.executable, "-W", "ignore", "-m", "gen_worker.cli", "run", "--module", "adding"]
    done = subprocess.run(
        [*command, "add"], cwd=tmp_path, capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stderr
    assert '"total":3.0' in done.stdout
    assert "leaked" not in done.stderr
