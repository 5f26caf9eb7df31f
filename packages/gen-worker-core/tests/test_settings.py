from __future__ import annotations

import importlib.metadata
import os
import sys
import traceback
import types
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import pytest

from gen_worker.errors import classify
from gen_worker.settings import (
    CoreSettings,
    Setting,
    SettingsError,
    SettingsRecord,
    explain,
    load,
    load_settings,
    records,
    settings_in,
)
from gen_worker.settings_sources import ConfigFile, DotEnv, Secrets, default_sources
from gen_worker.settings_values import parse_amount, parse_count, parse_positive

if TYPE_CHECKING:
    from pathlib import Path


def _even(text: str) -> int:
    if int(text) % 2:
        raise ValueError("an even number")
    return int(text)


class Sample(SettingsRecord, frozen=True, kw_only=True):
    name: Annotated[str, Setting(env="S_NAME", aliases=("S_OLD", "S_OLDER"), meaning="a name")] = (
        "x"
    )
    count: Annotated[int, Setting(env="S_COUNT", meaning="a count")] = 1
    ratio: Annotated[float | None, Setting(env="S_RATIO", meaning="a ratio")] = None
    is_on: Annotated[bool, Setting(env="S_ON", meaning="a switch")] = False
    mode: Annotated[Literal["fast", "slow"], Setting(env="S_MODE", meaning="a mode")] = "fast"
    parts: Annotated[tuple[str, ...], Setting(env="S_PARTS", meaning="a list")] = ()
    token: Annotated[str, Setting(env="S_TOKEN", meaning="a secret", is_secret=True)] = ""
    pairs: Annotated[int, Setting(env="S_PAIRS", meaning="even", parse=_even)] = 0
    key: Annotated[int, Setting(env="S_KEY", meaning="a secret number", is_secret=True)] = 0


def sample(**environ: str) -> Sample:
    return load(Sample, environ=environ, files=())


def test_nothing_given_is_all_defaults() -> None:
    assert sample() == Sample()


@pytest.mark.parametrize(
    ("environ", "field", "value"),
    [
        ({"S_NAME": "n"}, "name", "n"),
        ({"S_OLD": "o"}, "name", "o"),
        ({"S_OLDER": "p"}, "name", "p"),
        ({"S_OLD": "o", "S_NAME": "n"}, "name", "n"),
        ({"S_OLD": "o", "S_NAME": "  "}, "name", "o"),
        ({"S_NAME": ""}, "name", "x"),
        ({"S_COUNT": " 7 "}, "count", 7),
        ({"S_RATIO": "0.5"}, "ratio", 0.5),
        ({"S_RATIO": "1e3"}, "ratio", 1000.0),
        ({"S_ON": "1"}, "is_on", True),
        ({"S_ON": "Yes"}, "is_on", True),
        ({"S_ON": "OFF"}, "is_on", False),
        ({"S_MODE": "SLOW"}, "mode", "slow"),
        ({"S_PARTS": "a, b,,c"}, "parts", ("a", "b", "c")),
        ({"S_PAIRS": "4"}, "pairs", 4),
    ],
)
def test_text_becomes_the_type_of_its_field(
    environ: dict[str, str], field: str, value: object
) -> None:
    assert getattr(sample(**environ), field) == value


def test_every_malformed_value_is_named_with_its_variable() -> None:
    environ = {
        "S_COUNT": "seven",
        "S_RATIO": "nan",
        "S_ON": "maybe",
        "S_MODE": "quick",
        "S_PAIRS": "3",
    }
    with pytest.raises(SettingsError) as caught:
        sample(**environ)
    assert caught.value.problems == (
        "S_COUNT must be a whole number, not 'seven' (from environment)",
        "S_RATIO must be a number, not 'nan' (from environment)",
        "S_ON must be true or false, not 'maybe' (from environment)",
        "S_MODE must be one of fast, slow, not 'quick' (from environment)",
        "S_PAIRS must be an even number, not '3' (from environment)",
    )
    assert str(caught.value) == "; ".join(caught.value.problems)


def test_wrong_settings_are_never_the_callers_fault() -> None:
    with pytest.raises(SettingsError) as caught:
        sample(S_COUNT="seven")
    assert isinstance(caught.value, ValueError)
    assert classify(caught.value).error_type == "fatal"


def test_a_secret_is_in_no_error_and_no_listing() -> None:
    environ = {"S_KEY": "hunter2", "S_TOKEN": "hunter3"}
    with pytest.raises(SettingsError) as caught:
        sample(**environ)
    rows = explain(Sample, environ=environ, files=())
    assert "hunter" not in str(caught.value) + repr(rows)
    shown = {row.name: row.value for row in rows}
    assert (shown["S_TOKEN"], shown["S_KEY"]) == ("***", 0)


def test_an_unset_secret_is_shown_as_unset() -> None:
    assert {row.name: row.value for row in explain(Sample, environ={}, files=())}["S_TOKEN"] == ""


class Fixed:
    def __init__(self, name: str, values: dict[str, Any]) -> None:
        self.name = name
        self._values = values

    def get(self, name: str) -> Any:
        return self._values.get(name)


def test_arguments_beat_the_environment_and_that_beats_files_in_their_order() -> None:
    files = (
        Fixed("first", {"S_NAME": "1", "count": "1", "S_PARTS": "1"}),
        Fixed("second", {"S_NAME": "2", "S_COUNT": 2, "S_RATIO": 2, "mode": "slow"}),
    )
    given: dict[str, Any] = {
        "environ": {"S_NAME": "env", "S_PARTS": "env"},
        "files": files,
        "name": "argument",
        "token": None,
    }
    assert load(Sample, **given) == Sample(
        name="argument", count=1, ratio=2.0, mode="slow", parts=("env",)
    )
    sources = {row.name: row.source for row in explain(Sample, **given)}
    assert sources == {
        "S_NAME": "argument",
        "S_COUNT": "first",
        "S_RATIO": "second",
        "S_ON": "default",
        "S_MODE": "second",
        "S_PARTS": "environment",
        "S_TOKEN": "default",
        "S_PAIRS": "default",
        "S_KEY": "default",
    }


def test_values_of_a_file_may_have_their_own_types() -> None:
    files = (Fixed("f", {"S_COUNT": 5, "S_ON": True, "S_PARTS": ["a", "b"], "S_RATIO": 0.25}),)
    assert load(Sample, environ={}, files=files) == Sample(
        count=5, is_on=True, parts=("a", "b"), ratio=0.25
    )


def test_a_table_where_a_value_belongs_is_an_error() -> None:
    files = (Fixed("f", {"S_NAME": {"a": 1}}),)
    with pytest.raises(SettingsError, match=r"S_NAME must be a single value"):
        load(Sample, environ={}, files=files)


def test_a_problem_is_explained_beside_the_default_in_force() -> None:
    rows = {row.name: row for row in explain(Sample, environ={"S_COUNT": "x"}, files=())}
    assert (rows["S_COUNT"].value, rows["S_COUNT"].source) == (1, "default")
    assert "must be a whole number" in rows["S_COUNT"].problem


def test_an_unknown_argument_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="Sample has no setting nope"):
        load(Sample, environ={}, files=(), nope=1)


def test_a_field_without_setting_is_a_mistake_of_the_program() -> None:
    class Incomplete(msgspec.Struct):
        bare: str = ""

    with pytest.raises(TypeError, match=r"Incomplete\.bare is not annotated with a Setting"):
        settings_in(Incomplete)


def test_the_process_environment_and_files_are_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("WORKER_MAX_OUTPUT_BYTES=5\nWORKER_MAX_INPUT_BYTES=5\n")
    monkeypatch.setenv("WORKER_MAX_INPUT_BYTES", "7")
    monkeypatch.delenv("WORKER_MAX_OUTPUT_BYTES", raising=False)
    settings = load_settings()
    assert (settings.max_input_bytes, settings.max_output_bytes) == (7, 5)


@pytest.mark.parametrize(
    ("environ", "cas_dir"),
    [
        ({"TENSORHUB_CAS_DIR": "/cas"}, "/cas"),
        ({"TENSORHUB_CAS_DIR": "/cas", "TENSORHUB_CACHE_DIR": "/cache"}, "/cas"),
        ({"TENSORHUB_CACHE_DIR": "/cache"}, "/cache/cas"),
        ({"TENSORHUB_CAS_DIR": ""}, os.path.expanduser("~/.cache/tensorhub/cas")),
        ({}, os.path.expanduser("~/.cache/tensorhub/cas")),
        ({"TENSORHUB_CACHE_DIR": "~/c"}, os.path.expanduser("~/c/cas")),
    ],
)
def test_where_model_files_are_kept(environ: dict[str, str], cas_dir: str) -> None:
    assert load(CoreSettings, environ=environ, files=()).cas_dir == cas_dir


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("GEN_WORKER_LOCK", "lock_path", "/a/endpoint.lock"),
        ("GEN_WORKER_MANIFEST_PATH", "lock_path", "/a/endpoint.lock"),
        ("ENDPOINT_TOML_PATH", "endpoint_toml_path", "/a/endpoint.toml"),
        ("GEN_WORKER_LOCAL_OUTPUT_DIR", "local_output_dir", "/out"),
        ("GEN_WORKER_LOCAL_DEVICE", "local_device", "cuda:1"),
        ("WORKER_TORCH_DEVICE", "torch_device", "cuda:1"),
        ("WORKER_DEVICE", "torch_device", "cuda:1"),
        ("HF_TOKEN", "hf_token", "hf_x"),
        ("HUGGING_FACE_HUB_TOKEN", "hf_token", "hf_x"),
        ("TENSORHUB_CACHE_DIR", "cache_dir", "/cache"),
    ],
)
def test_names_core_knows(name: str, field: str, value: str) -> None:
    settings = load(CoreSettings, environ={name: value}, files=())
    assert getattr(settings, field) == value


def test_limits_of_core() -> None:
    defaults = load(CoreSettings, environ={}, files=())
    assert (defaults.max_input_bytes, defaults.max_output_bytes) == (0, 0)
    assert defaults.max_output_delta_bytes == 65_536
    names = ("WORKER_MAX_INPUT_BYTES", "WORKER_MAX_OUTPUT_BYTES", "WORKER_MAX_OUTPUT_DELTA_BYTES")
    with pytest.raises(SettingsError) as caught:
        load(CoreSettings, environ=dict.fromkeys(names, "-1"), files=())
    assert len(caught.value.problems) == 3


def test_every_setting_of_core_says_what_it_means() -> None:
    for declared in settings_in(CoreSettings):
        assert declared.setting.meaning
        assert declared.setting.group in ("local", "models", "limits", "tuning")
    assert {d.setting.env for d in settings_in(CoreSettings) if d.setting.is_secret} == {"HF_TOKEN"}


def test_records_of_installed_packages_follow_cores_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ["runtime", "models"]
    installed = [EntryPoint(name, f"{__name__}:Sample", "gen_worker.settings") for name in names]
    monkeypatch.setattr(EntryPoint, "load", lambda self: Sample)
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda group: installed if group == "gen_worker.settings" else [],
    )
    assert list(records()) == [("core", CoreSettings), ("models", Sample), ("runtime", Sample)]


# Files


def test_dotenv_lines(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(
        "\n".join(
            [
                "# a comment",
                "",
                "PLAIN=value",
                "export EXPORTED = spaced ",
                'DOUBLE="two words # kept\\n\\"q\\"" # dropped',
                "SINGLE='as \\n it is'",
                "BARE=a#b # dropped",
                "EMPTY=",
                "URL=https://h/p?a=b",
                "LAST=1",
                "LAST=2",
            ]
        )
    )
    source = DotEnv(str(path))
    expected = {
        "PLAIN": "value",
        "EXPORTED": "spaced",
        "DOUBLE": 'two words # kept\n"q"',
        "SINGLE": "as \\n it is",
        "BARE": "a#b",
        "EMPTY": "",
        "URL": "https://h/p?a=b",
        "LAST": "2",
        "ABSENT": None,
    }
    assert {name: source.get(name) for name in expected} == expected


def test_malformed_dotenv_lines_are_all_named_and_their_text_is_not(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("GOOD=1\nhunter2\n=hunter3\n")
    with pytest.raises(SettingsError) as caught:
        DotEnv(str(path))
    assert [problem.removeprefix(str(path)) for problem in caught.value.problems] == [
        ":2 is not NAME=value: correct the line, or begin it with # to leave it out",
        ":3 is not NAME=value: correct the line, or begin it with # to leave it out",
    ]


def test_secrets_are_files_named_like_the_setting(tmp_path: Path) -> None:
    (tmp_path / "S_TOKEN").write_text("hidden\n")
    (tmp_path / "S_NAME").mkdir()
    source = Secrets(str(tmp_path))
    assert (source.get("S_TOKEN"), source.get("S_NAME"), source.get("../x")) == (
        "hidden",
        None,
        None,
    )
    assert load(Sample, environ={}, files=(source,)).token == "hidden"


def test_configuration_in_toml(tmp_path: Path) -> None:
    path = tmp_path / "gen-worker.toml"
    path.write_text('S_NAME = "n"\ncount = 3\nis_on = true\nS_PARTS = ["a"]\n')
    settings = load(Sample, environ={}, files=(ConfigFile(str(path)),))
    assert settings == Sample(name="n", count=3, is_on=True, parts=("a",))


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gen-worker.toml"
    path.write_text("S_NAME = \n")
    with pytest.raises(SettingsError, match=r"gen-worker\.toml is not valid TOML"):
        ConfigFile(str(path))
    path.write_bytes(b"count = 3\n# caf\xe9\n")
    with pytest.raises(SettingsError, match=r"gen-worker\.toml:2 is not UTF-8: save the file"):
        ConfigFile(str(path))


def test_yaml_without_its_library_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    path = tmp_path / "gen-worker.yaml"
    path.write_text("S_NAME: n\n")
    with pytest.raises(SettingsError, match=r"rename it to .*gen-worker\.toml, or install PyYAML"):
        ConfigFile(str(path))


class YamlError(Exception):
    """As PyYAML's: its text quotes the line that is wrong."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        if line is not None:
            self.problem_mark = types.SimpleNamespace(line=line, column=4)


@pytest.mark.parametrize(
    ("parsed", "problem"),
    [
        ({"S_NAME": "n", "count": 3}, None),
        (None, None),
        (["a", "b"], "must hold names with values, not list"),
        (YamlError("S_TOKEN: hunter2"), r"is not valid YAML$"),
        (YamlError("S_TOKEN: hunter2", line=2), r"is not valid YAML \(at line 3, column 5\)$"),
        (ValueError("S_TOKEN: hunter2"), r"is not valid YAML$"),
    ],
)
def test_yaml_is_read_where_its_library_is_installed(
    parsed: object, problem: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def safe_load(text: str) -> object:
        assert text == "S_NAME: n\n"
        if isinstance(parsed, Exception):
            raise parsed
        return parsed

    yaml = types.ModuleType("yaml")
    vars(yaml).update(safe_load=safe_load, YAMLError=YamlError)
    monkeypatch.setitem(sys.modules, "yaml", yaml)
    path = tmp_path / "gen-worker.yaml"
    path.write_text("S_NAME: n\n")
    if problem is None:
        expected = Sample(name="n", count=3) if parsed else Sample()
        assert load(Sample, environ={}, files=(ConfigFile(str(path)),)) == expected
        return
    with pytest.raises(SettingsError, match=problem):
        ConfigFile(str(path))


def test_only_files_that_exist_are_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = {source.name for source in default_sources()}
    assert not elsewhere & {".env", "gen-worker.toml", "gen-worker.yaml"}
    (tmp_path / ".env").write_text("")
    (tmp_path / "gen-worker.toml").write_text("")
    (tmp_path / "gen-worker.yaml").write_text("")
    here = [source.name for source in default_sources() if source.name not in elsewhere]
    assert here[0] == ".env"
    assert "gen-worker.yaml" not in here, "only the first configuration file is read"


def test_a_directory_named_like_the_file_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many a virtualenv is called `.env`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").mkdir()
    assert ".env" not in {source.name for source in default_sources()}


def test_a_dot_env_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfS_NAME=n\r\n")
    assert DotEnv(str(tmp_path / ".env")).get("S_NAME") == "n"


def test_a_directory_of_secrets_that_cannot_be_listed_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone cannot be read: No such file"):
        Secrets(str(tmp_path / "gone"))


@pytest.mark.parametrize("text", ["a = " + "{a = " * 9999, "a = " + "9" * 9999])
def test_a_configuration_that_no_parser_likes_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gen-worker.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"gen-worker\.toml is not valid TOML"):
        ConfigFile(str(path))


# Secrets are not shown


def test_no_record_shows_its_secrets() -> None:
    settings = load_settings(environ={"HF_TOKEN": "hunter2"}, files=())
    assert settings.hf_token == "hunter2"
    assert "hunter2" not in repr(settings)
    assert "hf_token='***'" in str(settings)
    assert dict(settings.__rich_repr__())["hf_token"] == "***"
    assert "hf_token=''" in repr(load_settings(environ={}, files=()))


def test_a_record_that_would_show_a_secret_is_refused() -> None:
    class Telling(msgspec.Struct):
        token: Annotated[str, Setting(env="T", meaning="m", is_secret=True)] = ""

    with pytest.raises(TypeError, match="Telling has a secret: derive it from SettingsRecord"):
        settings_in(Telling)


def test_no_error_tells_a_secret(tmp_path: Path) -> None:
    class Pins(SettingsRecord, frozen=True):
        pin: Annotated[int, Setting(env="PIN", meaning="m", is_secret=True, parse=int)] = 0

    secret = "hunter2"
    with pytest.raises(SettingsError) as caught:
        load(Pins, environ={"PIN": secret}, files=())
    assert str(caught.value) == "PIN must be another one, not the secret given (from environment)"
    (tmp_path / "PIN").write_bytes(secret.encode() + b"\xff")
    with pytest.raises(SettingsError) as unreadable:
        load(Pins, environ={}, files=(Secrets(str(tmp_path)),))
    for error in (caught.value, unreadable.value):
        assert secret not in "".join(traceback.format_exception(error))
        assert secret not in repr(error.__context__)


@pytest.mark.parametrize("text", ["-1", "1.5", "9" * 5000, "\u0663", "1_000"])
def test_a_limit_is_a_plain_number(text: str) -> None:
    with pytest.raises(SettingsError, match="WORKER_MAX_INPUT_BYTES must be a whole number") as e:
        load_settings(environ={"WORKER_MAX_INPUT_BYTES": text}, files=())
    assert len(str(e.value)) < 400


class _Amounts(SettingsRecord, frozen=True):
    seconds: Annotated[float, Setting(env="SECONDS", meaning="m", parse=parse_amount)] = 0.5
    size: Annotated[int, Setting(env="SIZE", meaning="m", parse=parse_count)] = 1
    tries: Annotated[int, Setting(env="TRIES", meaning="m", parse=parse_positive)] = 3


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("seconds", "0", 0.0),
        ("seconds", "1.25", 1.25),
        ("size", "0", 0),
        ("size", "60e9", 60_000_000_000),
        ("size", "1.5E3", 1500),
        ("size", "123456789012345678", 123456789012345678),
        ("tries", "1", 1),
    ],
)
def test_amounts_are_read(name: str, text: str, value: float) -> None:
    found = getattr(load(_Amounts, environ={name.upper(): text}, files=()), name)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        *(("SECONDS", text, "a number") for text in ("-1", "inf", "nan", "1e999", "soon")),
        *(("SIZE", text, "a whole number") for text in ("-1", "1.5", "1e-1", "15e-1", "1.25e1")),
        *(("TRIES", text, "a whole number") for text in ("0", "-1", "1.5", "many")),
    ],
)
def test_amounts_that_make_no_sense_are_refused(name: str, text: str, expected: str) -> None:
    least = int(name == "TRIES")
    with pytest.raises(SettingsError) as caught:
        load(_Amounts, environ={name: text}, files=())
    assert str(caught.value) == (
        f"{name} must be {expected} of at least {least}, not {text!r} (from environment)"
    )
