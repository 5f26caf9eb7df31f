"""`Repo` and its kin: how they are written, what they refuse, what tools read from them."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import OverrideError, ValidationError
from gen_worker.models import (
    BindingError,
    CivitaiRepo,
    HFRepo,
    ModelScopeRepo,
    RefError,
    Repo,
    SharedBase,
    dispatch,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.spec import Binding

DIGEST = f"blake3:{'a1' * 32}"


class Pipeline:
    """Stands for a pipeline class."""


PIPELINE = f"{__name__}.Pipeline"


@pytest.mark.parametrize(
    ("repo", "slot_name", "ref"),
    [
        (Repo("base_model", "acme/flux"), "base_model", "acme/flux"),
        (Repo("acme/flux"), "", "acme/flux"),
        (Repo("acme/flux", name="q"), "q", "acme/flux"),
        (Repo(name="s", ref="a/b"), "s", "a/b"),
        (Repo("s", ref="a/b"), "s", "a/b"),
        (Repo(ref="a/b"), "", "a/b"),
        (Repo(default_ref="a/b", name="s"), "s", "a/b"),
        (Repo(" s ", " a/b "), "s", "a/b"),
        (HFRepo("m", "Owner/Repo"), "m", "Owner/Repo"),
        (CivitaiRepo("m", "4201"), "m", "4201"),
        (ModelScopeRepo("m", "Qwen/Q"), "m", "Qwen/Q"),
    ],
)
def test_both_constructor_shapes(repo: Repo, slot_name: str, ref: str) -> None:
    assert (repo.slot_name, repo.ref) == (slot_name, ref)
    assert repo.provider == type(repo).PROVIDER


def test_tag_flavor_and_digest_may_stand_in_the_ref() -> None:
    assert Repo("Acme/Flux:dev#BF16") == Repo("acme/flux").tag("dev").flavor("bf16")
    assert Repo("a/b:prod") == Repo("a/b")
    pinned = Repo(f"a/b@{DIGEST}").flavor("int8")
    assert pinned.ref == f"a/b@{DIGEST}"
    assert str(pinned.choice.target) == f"a/b@{DIGEST}#int8"
    assert HFRepo("o/r@main") == HFRepo("o/r").revision("main")
    assert CivitaiRepo("versions/7").choice.version_id == "7"


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (lambda: Repo(), "empty_ref"),
        (lambda: Repo(""), "empty_ref"),
        (lambda: Repo("  "), "empty_ref"),
        (lambda: Repo("slot", ""), "empty_ref"),
        (lambda: Repo(name="slot"), "empty_ref"),
        (lambda: Repo("", "a/b"), "bad_slot_name"),
        (lambda: Repo("1st", "a/b"), "bad_slot_name"),
        (lambda: Repo("base-model", "a/b"), "bad_slot_name"),
        (lambda: Repo("slot\n.", "a/b"), "bad_slot_name"),
        (lambda: Repo("slöt", "a/b"), "bad_slot_name"),
        (lambda: Repo("a/b", name="not a name"), "bad_slot_name"),
        (lambda: Repo("slot", "a/b", name="other"), "given_twice"),
        (lambda: Repo("slot", "a/b", ref="c/d"), "given_twice"),
        (lambda: Repo("abc"), "missing_slash"),
        (lambda: HFRepo("gpt2"), "missing_slash"),
        (lambda: ModelScopeRepo("qwen"), "missing_slash"),
        (lambda: CivitaiRepo("some-name"), "bad_id"),
        (lambda: HFRepo("o/r#fp16"), "hf_flavor"),
        (lambda: Repo("a/b").flavor(" "), "empty_flavor"),
        (lambda: Repo("a/b").flavor("a b"), "bad_flavor"),
        (lambda: Repo("a/b").tag(""), "empty_tag"),
        (lambda: Repo("a/b").tag("v1#x"), "bad_tag"),
        (lambda: Repo("a/b").tag("\N{KELVIN SIGN}"), "bad_tag"),
        (lambda: Repo(f"a/b@{DIGEST}").tag("dev"), "digest_with_tag"),
        (lambda: HFRepo("a/b").revision(""), "empty_revision"),
        (lambda: HFRepo("a/b").revision("../x"), "bad_revision"),
        (lambda: HFRepo("a/b").dtype(""), "empty_dtype"),
        (lambda: HFRepo("a/b").dtype("int7"), "unknown_dtype"),
        (lambda: HFRepo("a/b").subfolder(""), "empty_subfolder"),
        (lambda: HFRepo("a/b").subfolder("../vae"), "bad_subfolder"),
        (lambda: HFRepo("a/b").subfolder("/vae"), "bad_subfolder"),
        (lambda: HFRepo("a/b").subfolder("a\\b"), "bad_subfolder"),
        (lambda: HFRepo("a/b", subfolder="a//b"), "bad_subfolder"),
        (lambda: HFRepo("a/b").files(), "empty_files"),
        (lambda: HFRepo("a/b").files("*.json", " "), "empty_files"),
        (lambda: CivitaiRepo("1").version(""), "bad_id"),
        (lambda: CivitaiRepo("1").version("x"), "bad_id"),
        (lambda: CivitaiRepo("1").version(0), "bad_id"),
    ],
)
def test_mistakes_are_value_errors_with_a_code(build: Callable[[], Any], code: str) -> None:
    with pytest.raises(ValueError, match=": ") as caught:
        build()
    assert isinstance(caught.value, BindingError) or isinstance(caught.value, RefError)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "build",
    [
        lambda: Repo(5),  # type: ignore[arg-type]
        lambda: Repo("a", b"a/b"),  # type: ignore[arg-type]
        lambda: Repo("a/b").tag(5),  # type: ignore[arg-type]
        lambda: HFRepo("a/b").files(5),  # type: ignore[arg-type]
        lambda: Repo("a/b").allow_override(5),  # type: ignore[arg-type]
        lambda: Repo("a/b").allow_override(object),
    ],
)
def test_wrong_types_are_type_errors(build: Callable[[], Any]) -> None:
    with pytest.raises(TypeError):
        build()


def test_modifiers_commute_and_leave_the_original_alone() -> None:
    original = HFRepo("m", "o/r")
    steps: list[Callable[[HFRepo], HFRepo]] = [
        lambda r: r.dtype("bf16"),
        lambda r: r.revision("main"),
        lambda r: r.files("*.json"),
        lambda r: r.allow_lora(),
        lambda r: r.allow_override("a.B"),
    ]
    results = set()
    for order in itertools.permutations(steps):
        repo = original
        for step in order:
            repo = step(repo)
        results.add(repo)
    assert len(results) == 1
    assert original == HFRepo("m", "o/r")


def test_the_last_call_of_a_modifier_wins() -> None:
    assert Repo("a/b:x").tag("y").tag("z") == Repo("a/b:z")
    assert Repo("a/b").allow_override("a.A").allow_override("b.B").permissions.override_classes == (
        "b.B",
    )


@pytest.mark.parametrize(
    "value",
    [
        Repo("m", "a/b").flavor("bf16").allow_override("x.Y"),
        HFRepo("a/b", subfolder="vae"),
        SharedBase("d.Pipe", vae=Repo("a/vae")),
        SharedBase("d.Pipe", vae=Repo("a/vae")).variant(unet=HFRepo("a/unet")),
        dispatch("quality", {"draft": Repo("a/b")}, default="draft"),
    ],
)
def test_declarations_are_values(value: Any) -> None:
    assert copy.deepcopy(value) == value == pickle.loads(pickle.dumps(value))
    assert len({value, copy.copy(value)}) == 1
    for name in ("_permissions", "tag", "new"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(value, name, None)
    with pytest.raises(AttributeError, match="immutable"):
        del value._permissions


def test_equality_sees_class_and_every_field() -> None:
    variety = [
        Repo("a/b"),
        Repo("m", "a/b"),
        Repo("a/b:dev"),
        Repo("a/b#x"),
        Repo("a/b").allow_lora(),
        Repo("a/b").allow_override("x.Y"),
        HFRepo("a/b"),
        HFRepo("a/b").dtype("bf16"),
        HFRepo("a/b").revision("v1"),
        HFRepo("a/b").files("*"),
        HFRepo("a/b", subfolder="x"),
        ModelScopeRepo("a/b"),
    ]
    assert len(set(variety)) == len(variety)


def test_hf_flavor_is_a_deprecated_dtype() -> None:
    with pytest.warns(DeprecationWarning, match="write .dtype") as caught:
        repo = HFRepo("a/b").flavor("fp16")
    assert repo == HFRepo("a/b").dtype("fp16")
    assert caught[0].filename == __file__


def test_override_classes_are_unique_full_names_in_order() -> None:
    repo = Repo("a/b").allow_override("x.Y", Pipeline, " x.Y ")
    assert repo.permissions.override_classes == ("x.Y", PIPELINE)
    assert repo.permissions.allows_override
    assert not repo.permissions.allows_lora


@pytest.mark.parametrize("classes", [(), ("",), ("x.Y", "  ")])
def test_allow_override_needs_classes(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="allow_override"):
        Repo("a/b").allow_override(*classes)


def test_repo_may_say_what_it_loads() -> None:
    assert Repo[Pipeline]("m", "a/b") == Repo("m", "a/b")


def lock_of(binding: Binding, annotation: Any = Any) -> dict[str, Any]:
    return binding.to_lock("engine", annotation)


@pytest.mark.parametrize(
    ("repo", "expected"),
    [
        (
            Repo("a/b"),
            {"provider": "tensorhub", "slot_name": "engine", "ref": "a/b", "tag": "prod"},
        ),
        (
            Repo("main", "a/b:dev").flavor("bf16"),
            {
                "provider": "tensorhub",
                "slot_name": "main",
                "ref": "a/b",
                "tag": "dev",
                "flavor": "bf16",
            },
        ),
        (
            Repo(f"a/b@{DIGEST}"),
            {"provider": "tensorhub", "slot_name": "engine", "ref": f"a/b@{DIGEST}"},
        ),
        (
            HFRepo("O/R", subfolder="vae").dtype("bf16").revision("v1").files("*.json"),
            {
                "provider": "hf",
                "slot_name": "engine",
                "ref": "O/R",
                "tag": "prod",
                "revision": "v1",
                "dtype": "bf16",
                "subfolder": "vae",
                "allow_patterns": ["*.json"],
            },
        ),
        (
            CivitaiRepo("4201").version(130072),
            {
                "provider": "civitai",
                "slot_name": "engine",
                "ref": "4201",
                "tag": "prod",
                "version_id": "130072",
            },
        ),
        (
            ModelScopeRepo("Q/w").revision("v1").files("*.json", "*.safetensors"),
            {
                "provider": "modelscope",
                "slot_name": "engine",
                "ref": "Q/w",
                "tag": "prod",
                "revision": "v1",
                "allow_patterns": ["*.json", "*.safetensors"],
            },
        ),
    ],
)
def test_lock_table_of_a_fixed_model(repo: Repo, expected: dict[str, Any]) -> None:
    flags = {
        "kind": "fixed",
        "allow_override": False,
        "allow_lora": False,
        "pipeline_classes": [],
    }
    assert lock_of(repo) == flags | expected


def test_lock_names_the_annotated_class_where_the_author_named_none() -> None:
    assert lock_of(Repo("a/b"), Pipeline)["pipeline_classes"] == [PIPELINE]
    overridable = Repo("a/b").allow_override("x.Y").allow_lora()
    table = lock_of(overridable, Pipeline)
    assert table["pipeline_classes"] == ["x.Y"]
    assert table["allow_override"] is table["allow_lora"] is True


def test_describe() -> None:
    assert Repo("main", "acme/painter").flavor("bf16").allow_override("x.Y").describe() == {
        "type": "Repo",
        "provider": "tensorhub",
        "ref": "acme/painter",
        "tag": "prod",
        "flavor": "bf16",
        "allow_override": True,
        "slot_name": "main",
        "allow_lora": False,
        "pipeline_classes": ["x.Y"],
    }
    described = HFRepo("O/R").files("*.json").describe()
    assert described["flavor"] is described["slot_name"] is None
    assert described["allow_patterns"] == ["*.json"]
    assert CivitaiRepo("1").version("2").describe()["version_id"] == "2"


def test_repr_shows_what_is_set() -> None:
    assert repr(HFRepo("m", "O/R").dtype("bf16").allow_override("x.Y")) == (
        "HFRepo(slot_name='m', ref='O/R', tag='prod', dtype='bf16', allow_override=True, "
        "pipeline_classes=['x.Y'])"
    )


def test_to_dict_leaves_out_what_is_not_set() -> None:
    assert None not in HFRepo("O/R").to_dict().values()
    assert "slot_name" not in HFRepo("O/R").to_dict()


def test_a_fixed_model_is_the_same_for_every_call() -> None:
    repo = Repo("a/b:dev")
    assert repo.is_per_call is False
    assert repo.dialect == "binding"
    repo.check("engine", None)
    assert repo.choose("engine", object(), None) == {
        "ref": "a/b",
        "tag": "dev",
        "flavor": "",
        "provider": "tensorhub",
        "slot_name": "engine",
    }


def test_choice_carries_all_that_loading_needs() -> None:
    choice = HFRepo("s", "O/R", subfolder="x").dtype("fp16").revision("v2").choose("p", None, None)
    assert choice == {
        "ref": "O/R",
        "tag": "prod",
        "flavor": "",
        "provider": "hf",
        "slot_name": "s",
        "revision": "v2",
        "dtype": "fp16",
        "subfolder": "x",
    }


def test_override_replaces_the_repository_and_keeps_slot_and_precision() -> None:
    repo = HFRepo("s", "O/R", subfolder="x").dtype("fp16").revision("v2").allow_override("x.Y")
    choice = repo.choose("p", None, {"ref": "me/mine", "tag": "dev", "flavor": "BF16"})
    assert choice == {
        "ref": "me/mine",
        "tag": "dev",
        "flavor": "bf16",
        "provider": "tensorhub",
        "slot_name": "s",
        "dtype": "fp16",
        "source": "override",
    }


@pytest.mark.parametrize("source", ["", "override", "caller"])
def test_callers_choice_needs_permission(source: str) -> None:
    with pytest.raises(OverrideError) as caught:
        Repo("a/b").choose("engine", None, {"ref": "me/mine", "source": source})
    assert (caught.value.code, caught.value.param) == ("model_override_not_allowed", "engine")


def test_owners_current_slot_is_always_allowed() -> None:
    record = {
        "slot_name": "main",
        "ref": "a/newer",
        "tag": "",
        "flavor": "",
        "provider": "",
        "source": "default",
        "checkpoint_id": "blake3:00",
        "loras": [],
    }
    assert Repo("a/b").choose("engine", None, record) == {
        "ref": "a/newer",
        "tag": "prod",
        "flavor": "",
        "provider": "tensorhub",
        "slot_name": "main",
        "source": "default",
        "checkpoint_id": "blake3:00",
    }


def test_record_without_a_ref_says_nothing() -> None:
    declared = Repo("a/b").choose("engine", None, None)
    assert Repo("a/b").choose("engine", None, {"ref": "", "source": "override"}) == declared


def test_loras_need_permission_even_from_the_owner() -> None:
    lora = {"ref": "me/style", "weight": 0.5}
    record = {"ref": "a/b", "source": "default", "loras": [lora]}
    with pytest.raises(OverrideError, match="LoRAs"):
        Repo("a/b").choose("engine", None, record)
    choice = Repo("a/b").allow_lora().choose("engine", None, record)
    assert choice["loras"] == [{"ref": "me/style", "tag": "prod", "weight": 0.5}]


@pytest.mark.parametrize(
    "record",
    [
        "a/b",
        ["a/b"],
        7,
        {"ref": "nope"},
        {"ref": 5},
        {"ref": "a/b", "tag": ["x"]},
        {"ref": "a/b:dev", "tag": "prod"},
        {"ref": "a/b#x", "flavor": "y"},
        {"ref": "a/b", "provider": "ollama"},
        {"ref": "a/b", "loras": [{"weight": 1}]},
        {"ref": "a/b", "loras": [{"ref": "nope"}]},
        {"ref": "a/b", "loras": [{"ref": "a/b", "weight": float("nan")}]},
        {"ref": f"a/b@{DIGEST}", "tag": "dev"},
    ],
)
def test_malformed_records_are_validation_errors(record: Any) -> None:
    repo = Repo("a/b").allow_override("x.Y").allow_lora()
    with pytest.raises(ValidationError) as caught:
        repo.choose("engine", None, record)
    assert caught.value.path == "$._models.engine"


def test_stamped_default_tag_gives_way_to_a_digest() -> None:
    record = {"ref": f"a/b@{DIGEST}", "tag": "prod", "source": "default"}
    choice = Repo("a/b").choose("engine", None, record)
    assert (choice["ref"], choice["tag"]) == (f"a/b@{DIGEST}", "")
