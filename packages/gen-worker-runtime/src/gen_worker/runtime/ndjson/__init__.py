"""NDJSON over a socket: how `gen-worker serve` and its clients talk.

One JSON object per line. A request names a function and a payload; the answer is one line, or with
`"stream": true` one line per value. The frames are versioned by `PROTOCOL_VERSION` and only ever
grow: what a host program may rely on is in `docs/host-integration.md`.
"""

PROTOCOL_VERSION = 1
"""Version of the frames, the sidecar file and the `describe` document."""
