"""A function is called directly in a test: a context needs nothing but a request id."""

import pytest
from gen_worker import RequestContext, ValidationError

from from_scratch.main import Input, greet


def test_greets_by_name() -> None:
    assert greet(RequestContext("test"), Input(name="Ada")).message == "Hello, Ada!"


def test_greets_as_often_as_asked() -> None:
    answer = greet(RequestContext("test"), Input(name=" Ada ", times=2))
    assert answer.message == "Hello, Ada! Hello, Ada!"


def test_refuses_an_empty_name() -> None:
    with pytest.raises(ValidationError, match="name is empty"):
        greet(RequestContext("test"), Input(name=" "))
