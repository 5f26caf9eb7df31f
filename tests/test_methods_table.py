"""The tables of methods in the guide to conversion are what the code says."""

from ci.methods_table import DOCUMENT, tables, with_tables
from ci.workspace import ROOT


def test_the_guide_names_every_method_as_it_is() -> None:
    text = (ROOT / DOCUMENT).read_text()
    assert all(f"\n### {heading}\n\n|" in text for heading in tables())
    assert with_tables(text, tables()) == text, "run `python -m ci.methods_table --update`"


def test_a_table_that_is_out_of_date_is_replaced_as_a_whole() -> None:
    before = "### Methods and layouts\n\n| old |\n| older |\n\nText.\n"
    after = with_tables(before, {"Methods and layouts": "| new |\n"})
    assert after == "### Methods and layouts\n\n| new |\n\nText.\n"
