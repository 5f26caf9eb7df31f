"""The one library that core needs, and nothing of ours."""

import msgspec  # noqa: F401
