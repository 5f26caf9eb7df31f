"""Every check that CI runs, runnable here.

`nox` runs the default sessions, `nox -l` lists all, `nox -s "tests(core-3.12)"` runs one; what
follows `--` goes to the session. uv makes the environments: the workspace's own `.venv`, and below
`.nox` exact ones that hold only what one package declares.
"""

import atexit
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nox
import nox.command

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # nox loads this file by its path alone

from ci.proto import GENERATOR  # noqa: E402
from ci.tally import file_stem  # noqa: E402
from ci.workspace import examples, needs, packages, uv  # noqa: E402

UV = uv()
PACKAGES = packages()
EXAMPLES = examples()
# The oldest first. The landing has two cores and an hour: it leaves out those in between.
PYTHONS = tuple(os.environ.get("TEST_PYTHONS", "3.11 3.12 3.13").split())
# The longest first, so that no core idles at the end while one lane goes on.
LONGEST_FIRST = sorted(PACKAGES, key=lambda name: -PACKAGES[name].test_bytes)
LANES = [(package, python) for package in LONGEST_FIRST for python in PYTHONS]
LANE_IDS = [f"{package.removeprefix('gen-worker-')}-{python}" for package, python in LANES]
# An example that needs less than the whole SDK is also tested with no more than that.
EXAMPLE_LANES = [(name, "dev") for name in EXAMPLES]
EXAMPLE_LANES += [
    (name, "alone")
    for name, example in EXAMPLES.items()
    if "gen-worker" not in (package.name for package in needs(example, PACKAGES))
]
# What `uv run --extra dev` installs: every package and every tool.
EVERYTHING = ("--all-packages", "--extra", "dev", "--group", "dev")
# The source distribution has llama.cpp in it; a wheel is compiled once and kept by uv.
LLAMA_CPP = "llama-cpp-python==0.3.36"
# The meta-package's extras are third-party libraries of several gigabytes and no code of ours.
NO_EXTRAS = {"gen-worker"}

ENVIRONMENTS = ROOT / ".nox"
RESULTS = ENVIRONMENTS / "results"
AGAIN = RESULTS / "again"
REPORT = ENVIRONMENTS / "report.json"
STARTED = time.monotonic()

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "none"
nox.options.parallel = os.cpu_count() or 1
nox.options.allow_parallel = True
nox.options.report = str(REPORT)
nox.options.sessions = [
    "types",
    "torch",
    "quantizers",
    "shape",
    "tests",
    "workspace",
    "examples",
]
nox.options.sessions += ["lint", "lock", "api", "settings", "proto", "changes"]

# A missing interpreter is a skipped lane, said aloud, and never a download.
os.environ["UV_PYTHON_DOWNLOADS"] = "never"


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting and lint rules."""
    in_workspace(session, "ruff", "format", "--check", ".")
    in_workspace(session, "ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, one run per package and per folder of tests: two may name a module alike."""
    groups = [[f"packages/{name}/src", f"packages/{name}/tests"] for name in PACKAGES]
    groups += [[str(path.parent.relative_to(ROOT))] for path in inner_conftests()]
    groups += [[f"examples/{name}/src", f"examples/{name}/tests"] for name in EXAMPLES]
    groups += [["noxfile.py", "conftest.py", "ci", "tests"], ["bench"]]
    in_workspace(session, "mypy", "--version")
    failed = [group for group in groups if not has_sound_types(group)]
    if failed:
        session.error(f"mypy found errors in: {', '.join(map(' '.join, failed))}")


@nox.session
@nox.parametrize(("package", "python_version"), LANES, ids=LANE_IDS)
def tests(session: nox.Session, package: str, python_version: str) -> None:
    """One package's tests, with nothing installed but what that package declares."""
    extras = () if package in NO_EXTRAS else ("--all-extras",)
    selection = ("--package", package, *extras, "--group", "test")
    environment = exact_environment(session, selection, python_version)
    most = () if python_version == PYTHONS[0] else ("-m", "not one_python")
    run_pytest(session, environment, f"packages/{package}/tests", *most)


@nox.session(name="workspace")
def workspace_tests(session: nox.Session) -> None:
    """The tests that need all packages, as `uv run --extra dev pytest` runs them."""
    run_pytest(session, exact_environment(session, EVERYTHING), "tests")


@nox.session(name="examples")
@nox.parametrize(("name", "lane"), EXAMPLE_LANES, ids=map("-".join, EXAMPLE_LANES))
def example_tests(session: nox.Session, name: str, lane: str) -> None:
    """One example's tests, with its `dev` extra and this checkout's packages."""
    example = EXAMPLES[name]
    environment = fresh_environment(session)
    if lane == "dev":
        siblings, requirements = list(PACKAGES.values()), [f"-e{example.path}[dev]"]
    else:
        siblings, requirements = needs(example, PACKAGES), [f"-e{example.path}", "pytest"]
    install(session, environment, *(f"-e{sibling.path}" for sibling in siblings), *requirements)
    run_pytest(session, environment, str(example.path))


@nox.session
def torch(session: nox.Session) -> None:
    """The tests that load and run real models, made by themselves; on one Python."""
    # Tiny models on several threads spend their time waiting for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run_pytest(session, torch_environment(session), *tests_named("test_torch_*.py"))


@nox.session
def quantizers(session: nox.Session) -> None:
    """The tests of what torchao and bitsandbytes do, which make every import of a model slow."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    names = tests_named("test_quantizers_*.py")
    if not names:
        session.skip("there are none")
    # torchao's own files have escapes that newer Pythons warn of when they are compiled.
    quiet = ("-W", "ignore:invalid escape sequence", "-W", "ignore:.*is an invalid escape sequence")
    run_pytest(session, torch_environment(session, "conversion"), *quiet, *names)


@nox.session
def llama_cpp(session: nox.Session) -> None:
    """The tests that load GGUF files with llama.cpp, which takes some ten minutes to compile."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    environment = torch_environment(session)
    # For any processor: files are not computed faster, and a kept wheel may be run elsewhere.
    own = {"CMAKE_ARGS": "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF"}
    target = ("--python", str(environment))
    session.run(UV, "pip", "install", "--quiet", *target, LLAMA_CPP, env=own)
    run_pytest(session, environment, *tests_named("test_llama_cpp_*.py"))


@nox.session
def gpu(session: nox.Session) -> None:
    """The tests that need a GPU; without one each says why it is skipped."""
    run_pytest(session, torch_environment(session), *tests_named("test_gpu_*.py"))


@nox.session
def shape(session: nox.Session) -> None:
    """The wheels as users get them: disjoint, resolvable, layered, typed; together and alone."""
    dist = ENVIRONMENTS / "shape" / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    build = ("build", "--all-packages", "--no-sources", "--quiet")
    session.run(UV, *build, "--out-dir", str(dist))
    in_workspace(session, "python", "-m", "ci.wheels", str(dist))
    in_workspace(session, "python", "-m", "ci.stubs")
    together(session, dist)
    for name in PACKAGES:
        alone(session, dist, name)


def together(session: nox.Session, dist: Path) -> None:
    """Install all wheels in one environment; check its layers and what a consumer's mypy sees."""
    environment = fresh_environment(session, "together")
    install(session, environment, *wheels(dist, list(PACKAGES)), "import-linter", "mypy")
    contracts = str(environment / "layers.ini")
    in_workspace(session, "python", "-m", "ci.layers", contracts)
    session.run(str(environment / "bin/lint-imports"), "--no-cache", "--config", contracts)
    # The workspace's configuration would lead mypy to the sources.
    consumer = shutil.copy(ROOT / "ci" / "consumer.py", environment)
    options = ("--config-file=", f"--cache-dir={environment / 'mypy-cache'}")
    session.run(str(environment / "bin/mypy"), "--strict", *options, consumer)


def alone(session: nox.Session, dist: Path, name: str) -> None:
    """Install one wheel with what it requires and import all it ships."""
    package = PACKAGES[name]
    environment = fresh_environment(session, name)
    names = [name, *(sibling.name for sibling in needs(package, PACKAGES))]
    install(session, environment, *wheels(dist, names))
    python = str(environment / "bin/python")
    session.run(python, "-I", str(ROOT / "ci/bare_import.py"), *package.parts)


@nox.session
def lock(session: nox.Session) -> None:
    """`requirements.lock` against a fresh resolution; `-- --update` rewrites it."""
    in_workspace(session, "python", "-m", "ci.lock", *session.posargs)


@nox.session
def api(session: nox.Session) -> None:
    """The public names against the committed lists; `-- --update` rewrites them."""
    in_workspace(session, "python", "-m", "ci.api", *session.posargs)


@nox.session
def settings(session: nox.Session) -> None:
    """The tables of docs/environment.md against the code; `-- --update` rewrites them."""
    in_workspace(session, "python", "-m", "ci.settings_table", *session.posargs)
    in_workspace(session, "python", "-m", "ci.events_table", *session.posargs)


@nox.session
def proto(session: nox.Session) -> None:
    """The generated code against proto/; `-- --update` rewrites it."""
    environment = fresh_environment(session)
    # Its own requirements: the lock holds a newer protobuf than the generator runs with.
    session.run(UV, "pip", "install", "--quiet", "--python", str(environment), GENERATOR)
    session.run(str(environment / "bin/python"), "-m", "ci.proto", *session.posargs)


@nox.session
def changes(session: nox.Session) -> None:
    """A changelog fragment for each package changed since a revision (`-- REVISION`)."""
    in_workspace(session, "python", "-m", "ci.changes", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """The fault tests with many seeds (`-- --seeds N`)."""
    environment = exact_environment(session, EVERYTHING)
    patience = ("-o", "faulthandler_timeout=3600")  # ten thousand jobs are one test
    run_pytest(session, environment, "-m", "chaos", "--seeds", "100", *patience, again=False)


@nox.session
def coverage(session: nox.Session) -> None:
    """Which lines and branches the tests of the whole workspace reach."""
    in_workspace(session, "coverage", "run", "-m", "pytest", *session.posargs)
    in_workspace(session, "coverage", "report", "--skip-covered")


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks, on installed packages with compiled bytecode (`-- [--save] NAME...`)."""
    fresh = [f"--reinstall-package={name}" for name in PACKAGES]  # uv does not notice an edit
    installed = ("--no-editable", "--compile-bytecode", *fresh)
    environment = exact_environment(session, (*EVERYTHING, *installed))
    scripts = {path.stem for path in ROOT.glob("bench/*.py")}
    present = sorted(scripts - {"harness", "http_load"})
    flags = [word for word in session.posargs if word.startswith("-")]
    for name in [word for word in session.posargs if word not in flags] or present:
        session.run(str(environment / "bin/python"), f"bench/{name}.py", *flags)


def in_workspace(session: nox.Session, *command: str) -> None:
    """Run a command in the workspace's own environment, all packages and tools installed."""
    session.run(UV, "run", "--quiet", "--extra", "dev", *command)


def exact_environment(
    session: nox.Session, selection: tuple[str, ...], python_version: str | None = None
) -> Path:
    """Sync an environment of this session's own to hold the selection and nothing else."""
    environment = ENVIRONMENTS / file_stem(session.name)
    python = ("--python", interpreter(session, python_version)) if python_version else ()
    own = {"UV_PROJECT_ENVIRONMENT": str(environment)}
    session.run(UV, "sync", "--quiet", *selection, *python, env=own)
    return environment


def torch_environment(session: nox.Session, *more: str) -> Path:
    """Everything there is, with the libraries that run models; several gigabytes."""
    extras = ("torch", "gguf", "images", "tensorboard", "trainer", *more)
    libraries = (*(word for extra in extras for word in ("--extra", extra)), "--group", "test")
    return exact_environment(session, (*EVERYTHING, *libraries))


def tests_named(pattern: str) -> list[str]:
    """Return the paths of all packages' test files of this pattern."""
    return sorted(str(path) for path in ROOT.glob(f"packages/*/tests/{pattern}"))


def fresh_environment(session: nox.Session, name: str = "") -> Path:
    """Make an empty environment of this session's own."""
    environment = ENVIRONMENTS / file_stem(session.name) / name
    session.run(UV, "venv", "--quiet", "--clear", str(environment))
    return environment


def install(session: nox.Session, environment: Path, *requirements: str) -> None:
    """Install into an environment, third-party versions as the committed lock has them."""
    constraint = ("--constraint", str(ROOT / "requirements.lock"))
    target = ("--python", str(environment))
    session.run(UV, "pip", "install", "--quiet", *target, *constraint, *requirements)


def run_pytest(
    session: nox.Session, environment: Path, *arguments: str, again: bool = "CI" in os.environ
) -> None:
    """Run pytest with an environment's own commands first on the path, and keep the counts.

    In CI what fails is run once more by itself; the closing line counts what then passes as rerun.
    """
    stem = file_stem(session.name)
    binaries = environment / "bin"
    own = {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(environment),
        "CI": "true",  # Hypothesis: no deadlines, the same examples for everyone
    }
    options = ("-o", f"cache_dir={RESULTS / 'failed' / stem}", *arguments, *session.posargs)
    command = (str(binaries / "python"), "-m", "pytest", *options)
    try:
        session.run(*command, f"--junitxml={RESULTS / stem}.xml", env=own)
    except nox.command.CommandFailed as failure:
        if not again or failure.return_code != 1:  # 1: all ran, and some failed
            raise
        failed = ("--last-failed", "--last-failed-no-failures=none")
        session.run(*command, *failed, f"--junitxml={AGAIN / stem}.xml", env=own)


def interpreter(session: nox.Session, version: str) -> str:
    """Find a Python of this version or skip the session."""
    command = [UV, "python", "find", "--system", "--no-project", version]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        session.skip(f"this machine has no Python {version} (with pyenv, set PYENV_VERSION)")
    return found.stdout.strip()


def wheels(dist: Path, names: list[str]) -> list[str]:
    """Return the paths of the wheels of these packages."""
    stems = {name: f"{name.replace('-', '_')}-{PACKAGES[name].version}" for name in names}
    return [str(dist / f"{stem}-py3-none-any.whl") for stem in stems.values()]


def inner_conftests() -> list[Path]:
    """Return the fixtures of test folders below a package's own."""
    return sorted(ROOT.glob("packages/*/tests/*/**/conftest.py"))


def has_sound_types(paths: list[str]) -> bool:
    """Run mypy on those of the paths which hold Python, the first one's modules importable."""
    present = [path for path in paths if path.endswith(".py") or any(ROOT.glob(f"{path}/**/*.py"))]
    apart = [path.parent.relative_to(ROOT) for path in inner_conftests()]
    own = [Path(path) for path in paths]
    others = [path for path in apart if not any(one.is_relative_to(path) for one in own)]
    exclude = [f"--exclude=^{path}/" for path in others]
    command = [UV, "run", "--no-sync", "mypy", *exclude, *present]
    environment = {**os.environ, "MYPYPATH": str(ROOT / paths[0])}
    return not present or subprocess.run(command, env=environment).returncode == 0


def close() -> None:
    """Print one closing line for all test runs, after nox's own summary."""
    if REPORT.exists():
        duration_s = f"{time.monotonic() - STARTED:.2f}"
        command = [sys.executable, "-m", "ci.tally", str(RESULTS), str(REPORT), duration_s]
        subprocess.run(command, cwd=ROOT)


if "--parallel-worker" not in sys.argv:  # the workers' results are the parent's to sum up
    shutil.rmtree(RESULTS, ignore_errors=True)
    AGAIN.mkdir(parents=True)
    REPORT.unlink(missing_ok=True)
    atexit.register(close)
