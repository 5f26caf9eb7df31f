"""What a short `gen-worker run` must not pay for is not imported for it."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
before = set(sys.modules)
import msgspec
msgspec_brings = set(sys.modules)
from gen_worker import RequestContext, inference_function
from gen_worker.ports import Ports
from gen_worker.runtime import Engine, Invocation
from gen_worker.spec import specs_of

class In(msgspec.Struct):
    text: str = "a"

@inference_function
def echo(ctx: RequestContext, payload: In) -> In:
    return payload

class Events:
    def emit(self, event):
        pass

engine = Engine(specs_of(echo), Ports(files=object(), events=Events(), models=object()))
outcome = engine.run(Invocation(function="echo", request_id="1", timeout_ms=60_000))
assert outcome.value == In("a"), outcome
engine.close_now()
print(json.dumps(sorted(set(sys.modules) - msgspec_brings)))
"""

FORBIDDEN = {
    "asyncio",
    "concurrent.futures",
    "ctypes",
    "dataclasses",
    "dis",
    "importlib.metadata",
    "inspect",
    "logging",
    "pathlib",
    "tempfile",
    "tomllib",
    "traceback",
    "gen_worker.models",
    "gen_worker.runtime.engine.batching",
    "gen_worker.runtime.engine.lifecycle",
    "gen_worker.runtime.local",
}


def test_a_sync_function_runs_without_asyncio_and_its_kin() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert not FORBIDDEN & set(json.loads(done.stdout))
