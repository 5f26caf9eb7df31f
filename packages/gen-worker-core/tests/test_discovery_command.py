"""`python -m gen_worker.discovery`, as an image build runs it: in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.manifest import content_sha256, load_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    WriteProject = Callable[[Mapping[str, str]], Path]

APP = """
import msgspec
from gen_worker import inference_function
class In(msgspec.Struct):
    text: str = ""
"""
PAINT = """
@inference_function
def paint(ctx, payload: In) -> In: ...
"""


def run(
    root: Path, *arguments: str, module: str = "gen_worker.discovery", **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=root,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.parametrize("module", ["gen_worker.discovery", "gen_worker.discover"])
def test_stdout_is_the_lock_and_nothing_else(write_project: WriteProject, module: str) -> None:
    root = write_project(
        {
            "painter/__init__.py": "print('printed')",
            "painter/app.py": "import os, subprocess, sys, threading\n"
            "os.write(1, b'written')\n"
            "subprocess.run([sys.executable, '-c', 'print(\"from a child\")'])\n"
            # A thread that never ends must not keep the build waiting.
            "threading.Thread(target=threading.Event().wait).start()\n"
            "assert sys.stdin.read() == ''\n" + APP + PAINT,
        }
    )
    done = run(root, module=module)
    assert done.returncode == 0, done.stderr
    lock = tomllib.loads(done.stdout)
    assert [function["name"] for function in lock["functions"]] == ["paint"]
    assert lock["content_sha256"] == content_sha256(lock)
    assert all(text in done.stderr for text in ("printed", "written", "from a child"))


def test_the_import_sees_no_gpu_and_runs_in_the_project(write_project: WriteProject) -> None:
    root = write_project(
        {
            "painter/__init__.py": "",
            # A library's name beside endpoint.toml must not break the SDK itself.
            "painter/json.py": "",
            "painter/app.py": "import os\n"
            + APP
            + PAINT.replace(
                "@inference_function",
                "@inference_function(label=os.environ['CUDA_VISIBLE_DEVICES'] + os.getcwd())",
            ),
        }
    )
    done = run(root.parent, "--root", str(root), CUDA_VISIBLE_DEVICES="0,1")
    assert tomllib.loads(done.stdout)["functions"][0]["label"] == str(root)


def test_the_same_project_gives_the_same_bytes(write_project: WriteProject) -> None:
    root = write_project(
        {
            "painter/__init__.py": "",
            "painter/app.py": APP + PAINT,
            "painter/more.py": "from painter.app import *\n" + PAINT.replace("paint", "draw"),
        }
    )
    first, second = (run(root, PYTHONHASHSEED=seed).stdout for seed in ("1", "2"))
    assert first == second != ""


def test_a_lock_is_written_and_checked(write_project: WriteProject, tmp_path: Path) -> None:
    root = write_project({"painter/__init__.py": "", "painter/app.py": APP + PAINT})
    lock = tmp_path / "endpoint.lock"
    assert "there is no" in run(root, "--check", str(lock)).stderr
    written = run(root, "-o", str(lock))
    assert (written.returncode, written.stdout) == (0, "")
    assert load_lock(lock).modules == ("painter.app",)
    assert [entry.name for entry in tmp_path.iterdir() if "lock" in entry.name] == ["endpoint.lock"]
    assert run(root, "--check", str(lock)).returncode == 0
    (root / "painter/app.py").write_text(APP.replace("text: str", "words: int") + PAINT)
    stale = run(root, "--check", str(lock))
    assert stale.returncode == 1
    assert "paint.input_schema.text: field removed (breaking)" in stale.stderr
    assert f"build it anew with -o {lock}" in stale.stderr


def test_json(write_project: WriteProject) -> None:
    root = write_project({"painter/__init__.py": "", "painter/app.py": APP + PAINT})
    lock: dict[str, Any] = json.loads(run(root, "--json").stdout)
    assert lock["lock_version"] == 1
    (root / "painter/app.py").write_text(APP)
    done = run(root, "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads(done.stderr) | {"message": "", "hint": ""} == {
        "level": "error",
        "code": "nothing_found",
        "message": "",
        "hint": "",
    }


def test_mistakes_are_lines_without_tracebacks(write_project: WriteProject) -> None:
    root = write_project(
        {
            "painter/__init__.py": "",
            "painter/app.py": APP + PAINT.replace(" -> In", ""),
            "painter/broken.py": "1 / 0",
        }
    )
    done = run(root)
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.rsplit(" ", 1)[1] for line in done.stderr.splitlines()] == [
        "[import_fails]",
        "[return_missing]",
    ]
    assert "Traceback" in run(root, "--debug").stderr


def test_a_lone_surrogate_in_a_mistake_is_shown_escaped(write_project: WriteProject) -> None:
    """No encoding can carry one, so it must not travel between the processes as it is."""
    source = "raise RuntimeError('caf\\udce9')"
    root = write_project({"painter/__init__.py": "", "painter/app.py": source})
    done = run(root, "--json", "--debug")
    (problem,) = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert problem["code"] == "import_fails"
    assert problem["message"].endswith(r"RuntimeError: caf\udce9")
    assert "app.py" in problem["detail"]
    assert done.returncode == 1


def test_broken_submodules_can_be_left_out(write_project: WriteProject) -> None:
    root = write_project(
        {
            "painter/__init__.py": "",
            "painter/app.py": APP + PAINT,
            "painter/broken.py": "import nonexistent_library",
        }
    )
    assert run(root).returncode == 1
    done = run(root, "--skip-broken")
    assert done.returncode == 0
    assert done.stderr.startswith("warning: ")
    assert "nonexistent_library" in done.stderr


def test_a_wrong_endpoint_toml_is_reported_before_anything_is_imported(
    write_project: WriteProject,
) -> None:
    root = write_project(
        {"endpoint.toml": 'schema_version = 1\nmian = "painter"', "painter.py": "print('ran')"}
    )
    done = run(root)
    assert done.returncode == 1
    assert "did you mean 'main'?" in done.stderr
    assert "ran" not in done.stderr


def test_another_endpoint_toml_can_be_named(write_project: WriteProject) -> None:
    root = write_project(
        {
            "endpoint.toml": "this is no TOML",
            "other.toml": 'schema_version = 1\nmain = "painter"\nname = "Other"',
            "painter.py": APP + PAINT,
        }
    )
    done = run(root.parent, ENDPOINT_TOML_PATH=str(root / "other.toml"))
    assert tomllib.loads(done.stdout)["endpoint_name"] == "other"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("import threading; threading.Event().wait()", "import_timeout", "hung while it imported"),
        ("import os; os._exit(3)", "import_crashes", "ended with exit status 3 while it imported"),
        ("import os; os.kill(os.getpid(), 9)", "import_crashes", "ended by SIGKILL while"),
        ("raise KeyboardInterrupt", "import_fails", "raises KeyboardInterrupt"),
        ("import sys; sys.exit()", "import_exits", "ends the program"),
        ("import sys; sys.stdout.close(); sys.stderr.close()", "nothing_found", "no endpoint"),
    ],
)
def test_a_hostile_module_is_named(
    write_project: WriteProject, text: str, code: str, words: str
) -> None:
    root = write_project({"painter.py": text, "endpoint.toml": 'schema_version=1\nmain="painter"'})
    for limit in ("5", "30") if code == "import_timeout" else ("120",):
        done = run(root, "--timeout", limit)
        if words in done.stderr:  # else this machine is too busy to import anything so soon
            break
    assert (done.returncode, done.stdout) == (1, "")
    assert f"[{code}]" in done.stderr
    assert words in done.stderr
    assert "painter" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "soon"])
def test_a_timeout_is_a_number_of_seconds_above_zero(tmp_path: Path, given: str) -> None:
    done = run(tmp_path, f"--timeout={given}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"not a number of seconds above 0: '{given}'" in done.stderr


def test_ctrl_c_stops_a_hanging_import(write_project: WriteProject) -> None:
    root = write_project(
        {
            "painter.py": "import os, threading\n"
            "os.write(2, b'%d\\n' % os.getpid())\n"
            "threading.Event().wait()\n",
            "endpoint.toml": 'schema_version = 1\nmain = "painter"',
        }
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "gen_worker.discovery"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    importing = int(process.stderr.readline())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        os.kill(importing, 0)


def test_unknown_options_exit_with_2(tmp_path: Path) -> None:
    assert run(tmp_path, "--nonsense").returncode == 2


def test_a_lock_that_cannot_be_written_is_no_traceback(write_project: WriteProject) -> None:
    root = write_project({"painter/__init__.py": "", "painter/app.py": APP + PAINT})
    done = run(root, "-o", str(root / "painter" / "app.py" / "endpoint.lock"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("[failed]\n")
