"""What every test run of the workspace shares: the shadowing check and the `--seeds` option."""

import importlib
import importlib.util
import os
import signal
from pathlib import Path

import pytest

PACKAGES = Path(__file__).resolve().parent / "packages"
INSTALLED_SWITCH = "GEN_WORKER_TEST_INSTALLED"
SEEDS = 3

if importlib.util.find_spec("torch") is None:  # they run in lanes of their own (noxfile.py)
    collect_ignore_glob = ["packages/*/tests/test_torch_*.py", "packages/*/tests/test_quantizers_*"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seeds",
        type=int,
        default=SEEDS,
        metavar="N",
        help="give each test marked `chaos` the seeds 0 to N-1 (default: as many as its mark "
        f"says, such as `chaos(seeds=1)`, else {SEEDS})",
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # else all it starts ignores it
    strays = [] if os.environ.get(INSTALLED_SWITCH) else stray_directories()
    if strays:
        raise pytest.UsageError(
            "`gen_worker` would be imported from outside this checkout: "
            + ", ".join(map(repr, strays))
            + ". Remove that installation (`pip uninstall gen-worker gen-worker-core ...`) or run"
            " the tests in the workspace's own environment (`uv run --extra dev pytest`); to test"
            f" installed wheels on purpose set {INSTALLED_SWITCH}=1"
        )
    if config.pluginmanager.hasplugin("hypothesispytest") and not os.environ.get("CI"):
        _lift_deadlines()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker("chaos")
    if "seed" in metafunc.fixturenames and mark is not None:
        seeds = metafunc.config.getoption("seeds")
        usual = mark.kwargs.get("seeds", SEEDS)
        metafunc.parametrize("seed", range(usual if seeds == SEEDS else seeds))


def stray_directories() -> list[str]:
    """List the directories outside `packages/*/src` which `gen_worker` is spread over."""
    try:
        root = importlib.import_module("gen_worker")
    except ModuleNotFoundError:
        return []
    parts = [Path(part).resolve() for part in root.__path__]
    return [str(part) for part in parts if part.parents[2] != PACKAGES]


def _lift_deadlines() -> None:
    # A busy machine makes single examples slow; Hypothesis' own profile for CI lifts these too.
    from hypothesis import HealthCheck, settings

    unmeasured = [HealthCheck.too_slow]
    settings.register_profile("workspace", deadline=None, suppress_health_check=unmeasured)
    settings.load_profile("workspace")
