"""The S3 side of uploads: one bucket, one object per grant, path-style, signed.

Serves what transfer libraries do with a grant: put, multipart upload, and reading back.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from gen_worker.models.hub.local import sigv4
from gen_worker.models.hub.local.asgi import Answer, FileAnswer, read_body
from gen_worker.models.hub.local.aws_chunks import AwsChunks
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.rooms import rfc3339
from gen_worker.models.hub.local.routing import Route
from gen_worker.models.hub.local.staging import assemble, part_name, parts_in
from gen_worker.models.hub.local.uploads import OBJECT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.models.hub.local.asgi import Call
    from gen_worker.models.hub.local.database import Row
    from gen_worker.models.hub.local.rooms import Rooms

__all__ = ["BUCKET", "S3Routes"]

BUCKET = "hub-uploads"
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_SESSION = re.compile(r"([0-9a-f]{32})")
_LISTED_PART = re.compile(
    rb"<Part>(?:(?!</Part>).)*?<PartNumber>\s*(\d{1,5})\s*</PartNumber>", re.DOTALL
)
_MAX_XML_BYTES = 2 * 1024 * 1024
_CODES = {
    400: "InvalidRequest",
    403: "AccessDenied",
    404: "NoSuchKey",
    409: "InvalidPart",
    413: "EntityTooLarge",
}
_HASHES = {"UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}


class S3Routes:
    """Answers what an S3 client asks of the one object its grant is for."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def table(self) -> Sequence[Route]:
        methods = "GET HEAD PUT POST DELETE"
        return (Route(methods, f"/{BUCKET}/{{key*}}", "nothing", self.answer, is_stream=True),)

    def grant(self, call: Call, row: Row) -> dict[str, str]:
        """Return credentials for the object of an upload. Derived, so nothing is stored."""
        expires = int(self._rooms.now() + self._rooms.options.url_ttl_s)
        return {
            "endpoint_url": self._rooms.base_url(call),
            "bucket": BUCKET,
            "key": row["id"],
            "access_key_id": f"hub-{row['id']}",
            "secret_access_key": self._secret(row["id"], str(expires)),
            "session_token": str(expires),
            "region": "auto",
            "expires_at": rfc3339(expires),
        }

    async def answer(self, call: Call) -> Answer | FileAnswer:
        """Answer one request; refusals are told in S3's own form."""
        try:
            row = await self._loop_run(self._admit, call)
            found: Answer | FileAnswer = await self._act(call, row)
            return found
        except Refusal as refusal:
            # Codes in S3's own words are told as they are.
            is_own = refusal.code[:1].isupper()
            code = refusal.code if is_own else _CODES.get(refusal.status, "InvalidRequest")
            return _xml(
                f"<Error><Code>{code}</Code><Message>{escape(str(refusal))}</Message></Error>",
                status=refusal.status,
            )

    async def _act(self, call: Call, row: Row) -> Any:
        query, method = call.query, call.method
        if method == "PUT":
            return await self._put(call, row)
        await read_body(call, _MAX_XML_BYTES)
        if method == "POST" and "uploads" in query:
            return await self._loop_run(self._begin, row)
        if "uploadId" in query:
            act = {"POST": self._finish, "GET": self._list, "DELETE": self._abort}.get(method)
            if act is None:
                raise Refusal(400, "invalid_request", "no such operation")
            return await self._loop_run(act, call, row)
        if method in ("GET", "HEAD"):
            return await self._loop_run(self._read, row)
        raise Refusal(400, "invalid_request", "no such operation")

    async def _loop_run(self, function: Any, *values: Any) -> Any:
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(self._rooms.work, function, *values)

    def _admit(self, call: Call) -> Row:
        """Check the signature, and return the upload that the object stands for."""
        credential = sigv4.read_credential(call.headers.get("authorization", ""))
        if credential is None:
            raise Refusal(403, "AccessDenied", "the request is not signed (AWS Signature V4)")
        key = call.params["key"]
        expires = call.headers.get("x-amz-security-token", "")
        is_own = credential.access_key_id == f"hub-{key}" and expires.isdecimal()
        if not is_own or not sigv4.is_signed(
            credential,
            self._secret(key, expires),
            method=call.method,
            raw_path=call.raw_path,
            raw_query=call.raw_query,
            headers=call.headers,
            now=self._rooms.now(),
        ):
            raise Refusal(403, "SignatureDoesNotMatch", "the signature is not one of this grant")
        if self._rooms.now() >= int(expires):
            raise Refusal(403, "ExpiredToken", "the grant has expired: ask for a new one")
        return self._rooms.uploads.need(key)

    async def _put(self, call: Call, row: Row) -> Answer:
        # Late, as that module imports this one's types.
        from gen_worker.models.hub.local.publish_routes import keep

        uploads = self._rooms.uploads
        if row["state"] != "open":
            raise Refusal(409, "upload_complete", "the upload is complete")
        from hashlib import sha256

        from blake3 import blake3

        folder = await self._loop_run(uploads.folder, row)
        hasher, body_hasher = blake3(), sha256()
        target, number = f"{folder}/{OBJECT}", ""
        if "uploadId" in call.query:
            number = call.query.get("partNumber", "")
            if not number.isdecimal() or len(number) > 5:
                raise Refusal(400, "invalid_part", f"{number!r:.40} is no part number")
            target = self._session(row, call.query["uploadId"])
        told = call.headers.get("x-amz-content-sha256", "")

        def final_name() -> str:
            if told not in _HASHES and not told.startswith("STREAMING-"):
                if told != body_hasher.hexdigest():
                    raise Refusal(400, "digest_mismatch", "the body has another SHA-256")
            etag = hasher.hexdigest()[:32]
            return f"{target}/{part_name(int(number), etag)}" if number else target

        is_chunked = told.startswith("STREAMING-")
        await keep(
            call,
            self._rooms,
            f"{folder}/.{secrets.token_hex(16)}",
            final_name,
            size_bytes=row["size_bytes"] if "uploadId" not in call.query else None,
            hashers=(hasher,) if is_chunked else (hasher, body_hasher),
            **({"decode": AwsChunks()} if is_chunked else {}),
        )
        return Answer(headers={"etag": f'"{hasher.hexdigest()[:32]}"'})

    def _begin(self, row: Row) -> Answer:
        session = secrets.token_hex(16)
        os.makedirs(os.path.join(self._rooms.uploads.folder(row), session))
        return _xml(
            f'<InitiateMultipartUploadResult xmlns="{_NAMESPACE}"><Bucket>{BUCKET}</Bucket>'
            f"<Key>{row['id']}</Key><UploadId>{session}</UploadId></InitiateMultipartUploadResult>"
        )

    def _list(self, call: Call, row: Row) -> Answer:
        parts = "".join(
            f"<Part><PartNumber>{part.number}</PartNumber><ETag>&quot;{part.etag}&quot;</ETag>"
            f"<Size>{part.size_bytes}</Size></Part>"
            for part in _newest(self._session(row, call.query["uploadId"]))
        )
        return _xml(
            f'<ListPartsResult xmlns="{_NAMESPACE}"><Bucket>{BUCKET}</Bucket><Key>{row["id"]}</Key>'
            f"<UploadId>{call.query['uploadId']}</UploadId><IsTruncated>false</IsTruncated>{parts}"
            "</ListPartsResult>"
        )

    def _finish(self, call: Call, row: Row) -> Answer:
        """Put the listed parts together as the object; its digest is compared at `complete`."""
        session = self._session(row, call.query["uploadId"])
        numbers = [int(match) for match in _LISTED_PART.findall(call.body)]
        here = {part.number: part.path for part in _newest(session)}
        if not numbers or numbers != sorted(set(numbers)) or not set(numbers) <= set(here):
            raise Refusal(409, "part_missing", "the listed parts are not those that were sent")
        folder = self._rooms.uploads.folder(row)
        temporary = os.path.join(folder, f".{secrets.token_hex(16)}")
        assemble([here[number] for number in numbers], temporary)
        os.replace(temporary, os.path.join(folder, OBJECT))
        shutil.rmtree(session, ignore_errors=True)
        return _xml(
            f'<CompleteMultipartUploadResult xmlns="{_NAMESPACE}"><Bucket>{BUCKET}</Bucket>'
            f"<Key>{row['id']}</Key><ETag>&quot;{row['blake3'][:32]}&quot;</ETag>"
            "</CompleteMultipartUploadResult>"
        )

    def _abort(self, call: Call, row: Row) -> Answer:
        shutil.rmtree(self._session(row, call.query["uploadId"]), ignore_errors=True)
        return Answer(status=204)

    def _read(self, row: Row) -> FileAnswer:
        path = os.path.join(self._rooms.uploads.folder(row), OBJECT)
        if row["state"] == "complete":
            path = self._rooms.blobs.path(row["blake3"])
        if not os.path.isfile(path):
            raise Refusal(404, "NoSuchKey", "nothing was put here")
        return FileAnswer(path, etag=row["blake3"][:32], content_type=row["mime_type"])

    def _session(self, row: Row, upload_id: str) -> str:
        """Return the folder of a multipart upload."""
        folder = self._rooms.uploads.folder(row)
        path = os.path.join(folder, upload_id)
        if not _SESSION.fullmatch(upload_id) or not os.path.isdir(path):
            raise Refusal(404, "NoSuchUpload", "there is no such multipart upload")
        return path

    def _secret(self, key: str, expires: str) -> str:
        return self._rooms.signer.seal("grant", key, expires)


def _newest(folder: str) -> list[Any]:
    """Return one part of each number, the one sent last."""
    found = {part.number: part for part in parts_in(folder)}
    return [found[number] for number in sorted(found)]


def _xml(text: str, *, status: int = 200) -> Answer:
    data = f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()
    return Answer(data, status=status, content_type="application/xml")
