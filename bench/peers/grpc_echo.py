"""The worker's peer: the least that can answer jobs over the same protocol.

It connects, registers on three streams, and echoes each job at once on the loop. No context, token,
limit, queue, thread, observation or retry. Usage: python grpc_echo.py HOST:PORT
"""

import sys
from typing import Any

import grpc.aio
import msgspec
import uvloop

from gen_worker.runtime.wire import (
    CHANNEL_OPTIONS,
    METHODS,
    JobRequest,
    JobResult,
    Registration,
    Resources,
    StreamDone,
    StreamRole,
    TokenDelta,
    decode,
    encode,
)


class Text(msgspec.Struct):
    text: str
    count: int = 1


texts = msgspec.msgpack.Decoder(Text)
to_msgpack = msgspec.msgpack.Encoder().encode
to_json = msgspec.json.Encoder().encode


async def stream(events: Any, results: Any, request: JobRequest, payload: Text) -> None:
    for sequence in range(1, payload.count + 1):
        delta = TokenDelta(
            request_id=request.request_id,
            function=request.function,
            sequence=sequence,
            delta_text=payload.text,
            payload_json=to_json({"text": payload.text}),
        )
        await events.write(encode(delta))
    done = StreamDone(
        request_id=request.request_id, function=request.function, sequence=payload.count + 1
    )
    await events.write(encode(done))
    await results.write(encode(JobResult(request_id=request.request_id, success=True)))


async def main() -> None:
    async with grpc.aio.insecure_channel(sys.argv[1], options=CHANNEL_OPTIONS) as channel:
        streams: dict[StreamRole, Any] = {}
        roles: tuple[StreamRole, ...] = ("control", "results", "events")
        for role in roles:
            opened: Any = channel.stream_stream(METHODS[role])
            call = streams[role] = opened()
            registration = Registration(
                resources=Resources(worker_id="peer"),
                is_heartbeat=role != "control",
                supports_split_streams=True,
                stream_role=role,
            )
            await call.write(encode(registration))
        results = streams["results"]
        while isinstance(data := await streams["control"].read(), bytes):
            request = decode(data)
            if not isinstance(request, JobRequest):
                continue
            payload = texts.decode(request.payload)
            if request.function.startswith("stream"):
                await stream(streams["events"], results, request, payload)
                continue
            answer = to_msgpack({"text": payload.text})
            await results.write(
                encode(JobResult(request_id=request.request_id, success=True, payload=answer))
            )


uvloop.run(main())
