"""The NDJSON peer: an asyncio server that does by hand what `gen-worker serve` does.

It decodes each frame and payload with msgspec, calls the same function (awaited when async, through
the loop's executor when sync) and encodes the same answer. No contexts, cancellation, limits or
queues. Usage: python ndjson_asyncio.py SOCKET
"""

import asyncio
import sys

import msgspec

sys.path.insert(0, sys.argv[2])
import echo


class Frame(msgspec.Struct):
    function: str
    payload: msgspec.Raw
    request_id: str | None = None
    stream: bool = False


frames = msgspec.json.Decoder(Frame)
texts = msgspec.json.Decoder(echo.Text)
encode = msgspec.json.Encoder().encode


def event(name: str, value: object, request_id: str | None) -> bytes:
    return encode({"event": name, "value": value, "request_id": request_id})


async def answer(frame: Frame, writer: asyncio.StreamWriter) -> None:
    payload = texts.decode(frame.payload)
    function = getattr(echo, frame.function)
    if frame.stream:
        count = 0
        async for item in function(None, payload):
            writer.write(event("yield", item, frame.request_id) + b"\n")
            await writer.drain()
            count += 1
        writer.write(event("result", {"yielded": count}, frame.request_id) + b"\n")
        writer.write(encode({"ok": True, "done": True, "request_id": frame.request_id}) + b"\n")
        return
    if asyncio.iscoroutinefunction(function):
        value = await function(None, payload)
    else:
        value = await asyncio.get_running_loop().run_in_executor(None, function, None, payload)
    events = [{"event": "result", "value": value, "request_id": frame.request_id}]
    writer.write(encode({"ok": True, "events": events, "request_id": frame.request_id}) + b"\n")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        await answer(frames.decode(line), writer)
        await writer.drain()
    writer.close()


async def main() -> None:
    server = await asyncio.start_unix_server(serve, sys.argv[1], backlog=1024)
    async with server:
        await server.serve_forever()


asyncio.run(main())
