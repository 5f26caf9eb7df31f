"""Streams an answer from any chat API that speaks server-sent events.

Environment: `UPSTREAM_URL` (the API's base URL), `UPSTREAM_API_KEY` (sent as a bearer token).
"""

import json
import os
from collections.abc import AsyncIterator

import httpx
import msgspec
from gen_worker import AuthError, RequestContext, RetryableError, inference_function


class Ask(msgspec.Struct):
    prompt: str
    model: str = "small"


class Piece(msgspec.Struct):
    text: str


@inference_function(timeout_ms=60_000)
async def chat(ctx: RequestContext, payload: Ask) -> AsyncIterator[Piece]:
    """Pass a prompt on and stream the answer."""
    body = {
        "model": payload.model,
        "stream": True,
        "messages": [{"role": "user", "content": payload.prompt}],
    }
    headers = {"Authorization": f"Bearer {os.environ.get('UPSTREAM_API_KEY', '')}"}
    url = os.environ["UPSTREAM_URL"].rstrip("/") + "/chat/completions"
    async with (
        httpx.AsyncClient(timeout=30) as client,
        client.stream("POST", url, json=body, headers=headers) as answer,
    ):
        _check(answer)
        async for line in answer.aiter_lines():
            if text := _text(line):
                yield Piece(text=text)


def _check(answer: httpx.Response) -> None:
    """Say what the upstream's refusal means to our caller."""
    if answer.status_code in (401, 403):
        raise AuthError("the upstream refused our key: set UPSTREAM_API_KEY")
    if answer.status_code == 429 or answer.status_code >= 500:
        raise RetryableError(f"the upstream answered {answer.status_code}")
    answer.raise_for_status()


def _text(line: str) -> str:
    """Return the text in one line of the event stream; most lines carry none."""
    if not line.startswith("data:") or line.endswith("[DONE]"):
        return ""
    choice = json.loads(line.removeprefix("data:"))["choices"][0]
    return choice["delta"].get("content") or ""
