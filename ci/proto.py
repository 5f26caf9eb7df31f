"""Compare the generated code with what `proto/` gives; `--update` rewrites it.

Runs where the generator is installed, in the version named here. That version decides which
protobuf the code needs: one that is older than its generator is refused at import, a newer one is
not. So it is the oldest that a supported protobuf accepts, not the newest there is.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from ci.workspace import ROOT, report

GENERATOR = "grpcio-tools==1.76.0"  # writes for protobuf 6.31.1
PROTO = ROOT / "proto"
GENERATED = ROOT / "packages/gen-worker-runtime/src/gen_worker/pb"
PATTERN = "*_pb2.py*"


def main(arguments: list[str]) -> int:
    fresh = generate()
    if "--update" in arguments:
        for path in GENERATED.glob(PATTERN):
            path.unlink()
        for name, text in fresh.items():
            (GENERATED / name).write_text(text)
    problems = differences(fresh, {path.name: path.read_text() for path in GENERATED.glob(PATTERN)})
    if problems:
        problems.append("run `nox -s proto -- --update` and commit the result")
    return report("proto", problems)


def generate() -> dict[str, str]:
    """Return the generated files by name: the messages and their types, no stubs of services."""
    sources = sorted(path.name for path in PROTO.glob("*.proto"))
    with tempfile.TemporaryDirectory() as target:
        options = (f"-I{PROTO}", f"--python_out={target}", f"--pyi_out={target}")
        command = [sys.executable, "-m", "grpc_tools.protoc", *options, *sources]
        subprocess.run(command, check=True)
        return {path.name: path.read_text() for path in Path(target).iterdir()}


def differences(fresh: dict[str, str], committed: dict[str, str]) -> list[str]:
    """Report each file that is missing, left over or changed."""
    names = sorted(fresh.keys() | committed.keys())
    return [
        f"{GENERATED.relative_to(ROOT) / name} is not what proto/ gives"
        for name in names
        if fresh.get(name) != committed.get(name)
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
