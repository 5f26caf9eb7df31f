"""The place of a mistake survives a wire that has one sentence for a failure."""

from hypothesis import given
from hypothesis import strategies as st

from gen_worker.errors import ValidationError, classify, safe_text
from gen_worker.runtime.wire.places import split_place, with_place


def test_the_sentence_of_a_decoder_is_left_as_it_is() -> None:
    said = "Expected `int`, got `str` - at `$.items[0].count`"
    assert with_place(said, "$.items[0].count") == said
    assert split_place(said) == (said, "$.items[0].count")


def test_another_sentence_comes_back_without_what_was_added() -> None:
    said = with_place("nothing to shout", "$.text")
    assert said == "nothing to shout (at `$.text`)"
    assert split_place(safe_text(said)) == ("nothing to shout", "$.text")


def test_a_place_that_is_no_place_is_left_out() -> None:
    for path in ("", "text", "$.a`b", "$." + "a" * 300):
        assert with_place("wrong", path) == "wrong"
    assert split_place("Expected `str` - at `key` in `$.names`")[1] == ""


def test_a_long_sentence_is_cut_rather_than_its_place() -> None:
    said = with_place("x" * 500, "$.text")
    assert len(said) == 500
    assert split_place(said)[1] == "$.text"


PLACES = r"\$(\.[a-z_]{1,9}|\[[0-9]{1,3}\]|\[\.\.\.\]){0,6}"


@given(st.text(max_size=600), st.from_regex(PLACES, fullmatch=True))
def test_every_place_comes_back(message: str, path: str) -> None:
    failure = classify(ValidationError(message, path=path))
    said = with_place(failure.message, path)
    assert len(said) <= 500
    assert split_place(safe_text(said))[1] == path
