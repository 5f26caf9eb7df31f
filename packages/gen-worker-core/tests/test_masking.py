from __future__ import annotations

import time

import pytest

from gen_worker.masking import is_secret_name, without_credentials, without_places

# Beginnings of what is masked, and what each pattern repeats: the food of a backtracking search.
PIECES = (
    *("/", "/a", "//a", "a://", "http://", "://a", "@a", "a+", "a.b+c-", "~/", "A:\\", "\\\\a"),
    *("Bearer ", "eyJ", "-eyJ", "eyJaaaaaaaa.a.", "sk-", "hf_", "gho_", "AKIA", "a="),
    *("token=", "?token", "&sig=", "='", " ", "aT"),
)
CHARS = 60_000


@pytest.mark.parametrize("piece", PIECES)
def test_hostile_texts_take_time_linear_in_their_length(piece: str) -> None:
    begun_at = time.process_time()  # whatever else the machine does meanwhile
    for text in (piece * (CHARS // len(piece)), piece * (CHARS // len(piece) // 2) + "a" * CHARS):
        without_credentials(text)
        without_places(text)
    # Some 0.2 s; a pattern that is quadratic needs a minute.
    assert time.process_time() - begun_at < 10


@pytest.mark.parametrize("name", ["hf_token", "HF-TOKEN", "apiKey", "accessKey", "AWS_SECRET_X"])
def test_names_of_credentials_are_known(name: str) -> None:
    assert is_secret_name(name)
    assert without_credentials(f"with {name}=abc, ok") == f"with {name}=<redacted>, ok"


@pytest.mark.parametrize("name", ["tokens", "monkey", "key", "design", "secretary"])
def test_names_that_only_sound_like_it_are_not(name: str) -> None:
    assert not is_secret_name(name)
    assert without_credentials(f"with {name}=abc") == f"with {name}=abc"


def test_the_operator_still_sees_where_things_are() -> None:
    text = "GET https://me:pass@host/a/b?size=3&token=abc from /srv/models"
    expected = "GET https://<redacted>@host/a/b?size=3&token=<redacted> from /srv/models"
    assert without_credentials(text) == expected
