"""The import contracts follow from the packages."""

import configparser

from ci.layers import contracts

PARTS = {
    "gen-worker": (),
    "gen-worker-cli": ("cli",),
    "gen-worker-trainer": ("trainer",),
    "gen-worker-conversion": ("clone", "conversion"),
    "gen-worker-runtime": ("runtime", "testing"),
    "gen-worker-models": ("models",),
    "gen-worker-core": ("errors", "io"),
}


def test_each_chain_holds_every_module_in_the_layer_of_its_package() -> None:
    config = configparser.ConfigParser()
    config.read_string(contracts(PARTS))
    chain = config["importlinter:contract:gen-worker-conversion"]["layers"].split("\n")
    assert [line for line in chain if line] == [
        "gen_worker.cli",
        "gen_worker.clone : gen_worker.conversion",
        "gen_worker.runtime : gen_worker.testing",
        "gen_worker.models",
        "gen_worker.errors : gen_worker.io",
    ]


def test_packages_of_one_layer_do_not_import_each_other() -> None:
    config = configparser.ConfigParser()
    config.read_string(contracts(PARTS))
    wall = config["importlinter:contract:gen-worker-trainer-alone"]
    assert wall["type"] == "forbidden"
    assert wall["source_modules"].split() == ["gen_worker.trainer"]
    assert wall["forbidden_modules"].split() == ["gen_worker.clone", "gen_worker.conversion"]


def test_generated_code_has_one_importer() -> None:
    config = configparser.ConfigParser()
    config.read_string(contracts(PARTS))
    door = config["importlinter:contract:generated"]
    assert door["type"] == "protected"
    assert door["protected_modules"].split() == ["gen_worker.pb"]
    assert door["allowed_importers"].split() == ["gen_worker.runtime.wire"]
