"""Whatever the description of the API lets a client send, and what it forbids, is answered."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import msgspec
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from gen_worker import RequestContext, inference_function
from gen_worker.testing.platform import Platform

schemathesis: Any = pytest.importorskip("schemathesis", reason="it is of the group `dev`")

TIMEOUT_S = 60.0
EXAMPLES = 4
"""Of each operation and seed, half of them as the document wants them."""
MAY_FAIL = (501, 503, 504)
"""Not from this host's own mistakes: not offered here, busy, too late."""


class Text(msgspec.Struct):
    text: str = ""
    count: int = 1


@inference_function
def shout(ctx: RequestContext, payload: Text) -> Text:
    return Text(payload.text.upper())


@inference_function
def spell(ctx: RequestContext, payload: Text) -> Iterator[Text]:
    for word in payload.text.split():
        yield Text(word)


@schemathesis.serializer("application/x-tar")  # type: ignore[untyped-decorator]
def tar_body(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else msgspec.json.encode(str(value))


class Host:
    """A platform, its document, and what is there to be asked for."""

    def __init__(self, platform: Platform, http: httpx.Client) -> None:
        self.http = http
        self.request_id = platform.client.submit("spell", text="one two").id
        while self.read(f"/v1/requests/{self.request_id}")["status"] != "succeeded":
            time.sleep(0.01)
        (release,) = self.read("/v1/releases")["releases"]
        self.known: dict[str, str] = {
            name: release[name] for name in ("owner", "endpoint", "release_id")
        }
        schema = schemathesis.openapi.from_url(f"{platform.url}/openapi.json")
        self.operations = [found.ok() for found in schema.get_all_operations()]

    def read(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Platform([shout, spell]) as platform:
        with httpx.Client(base_url=platform.url, trust_env=False, timeout=TIMEOUT_S) as http:
            yield Host(platform, http)


def cases(operation: Any) -> st.SearchStrategy[Any]:
    modes = schemathesis.GenerationMode
    return st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes))


def make_known(case: Any, host: Host) -> None:
    """Have a case be about what there is."""
    if isinstance(case.path_parameters, dict):
        if case.path.startswith("/v1/requests/"):
            case.path_parameters = {"id": host.request_id}
        elif "release_id" in case.path_parameters:
            case.path_parameters = dict(host.known)
    if case.path == "/v1/requests" and isinstance(case.body, dict):
        case.body = {**case.body, "function": "test/shout"}


def check(case: Any, host: Host) -> None:
    answer = case.call(timeout=TIMEOUT_S)
    status = answer.status_code
    assert status < 500 or status in MAY_FAIL, (case.as_curl_command(), answer.text)
    excluded = [
        # What a name means, and whether somebody has taken it, no schema says.
        schemathesis.checks.positive_data_acceptance,
        # Bytes, where JSON is wanted, may be JSON.
        schemathesis.checks.negative_data_rejection,
    ]
    case.validate_response(answer, excluded_checks=excluded)


@pytest.mark.chaos
def test_every_operation_answers_what_its_description_says(host: Host, seed: int) -> None:
    for operation in host.operations:

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=EXAMPLES,
            derandomize=False,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=cases(operation), is_known=st.booleans())
        def run(case: Any, is_known: bool) -> None:
            if is_known:
                make_known(case, host)
            check(case, host)

        run()
    deadline = time.monotonic() + TIMEOUT_S
    while host.read("/v1/status")["scheduler"]["unfinished"]:
        assert time.monotonic() < deadline, "something does not end"
        time.sleep(0.01)
    assert host.read("/readyz") == {"ready": True, "reasons": []}
