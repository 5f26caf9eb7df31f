"""Addresses of model pages on Civitai."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from gen_worker.errors import ValidationError

__all__ = ["CivitaiPage", "parse_civitai_frontend_model_url"]

_HOSTS = frozenset({"civitai.com", "www.civitai.com"})
_PATH = re.compile(r"/models/([1-9]\d{0,18})(?:/[^/]*)?/?")
_NUMBER = re.compile(r"[1-9]\d{0,18}")


class CivitaiPage(NamedTuple):
    """What the address of a page names."""

    model_id: str
    model_version_id: str
    """Empty when it names none."""


def parse_civitai_frontend_model_url(url: str) -> CivitaiPage:
    """Read the address of a model's page, `https://civitai.com/models/<id>[/name]`.

    Raises:
        ValidationError: It is something else.
    """
    try:
        parts = urlsplit(url.strip())
        is_site = parts.scheme == "https" and parts.netloc.lower() in _HOSTS
    except ValueError:
        is_site = False
    match = _PATH.fullmatch(parts.path) if is_site else None
    versions = parse_qs(parts.query).get("modelVersionId", []) if match else []
    wrong = [one for one in versions if not _NUMBER.fullmatch(one)]
    if match is None or wrong or len(set(versions)) > 1:
        raise ValidationError(
            f"{url!r:.200} is no page of a model: write it as https://civitai.com/models/<id>, "
            "with ?modelVersionId=<id> for one version"
        )
    return CivitaiPage(match[1], versions[0] if versions else "")
