"""Requests go where they may, carry what they should, and end in time, with a typed error."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.cancel import CancelToken
from gen_worker.errors import CanceledError, DeadlineExceededError
from gen_worker.models.net import (
    BodyTooLargeError,
    HttpStatusError,
    IncompleteBodyError,
    NetworkError,
    Opener,
    Proxy,
    Url,
    UrlRefusedError,
    environment_proxy,
    parse_url,
)
from gen_worker.models.net.errors import TooManyRedirectsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gen_worker.models.net import Response


def direct(url: Url) -> None:
    return None


@pytest.fixture
def opener() -> Opener:
    return Opener(allow_private=True, read_timeout_s=100)


def redirect(location: str, status: int = 302) -> Callable[[Any], None]:
    return lambda asked: asked.head(status, Location=location, Content_Length=0)


def test_a_body_is_read_and_the_connection_kept(server: Any, opener: Opener) -> None:
    server.files["/f"] = b"hello"
    for _ in range(5):
        with opener.open(server.url("/f")) as response:
            assert (response.status, response.length, response.read()) == (200, 5, b"hello")
            assert response.read() == b""
    assert server.connections == 1
    assert server.asked[0].headers["accept-encoding"] == "identity"
    assert server.asked[0].headers["host"] == server.origin.removeprefix("http://")


def test_an_unread_body_closes_its_connection(server: Any, opener: Opener) -> None:
    server.files["/f"] = b"x" * 100_000
    for _ in range(3):
        with opener.open(server.url("/f")) as response:
            assert response.read(10) == b"x" * 10
    assert server.connections == 3


def test_a_connection_the_server_closed_meanwhile_is_replaced(server: Any, opener: Opener) -> None:
    server.files["/f"] = b"hello"

    def drop(asked: Any) -> None:
        asked.stays_open = False

    opener.open(server.url("/f")).read()
    server.plan("/f", drop)  # noticed only when the request is on its way
    assert opener.open(server.url("/f")).read() == b"hello"


def test_threads_share_an_opener(server: Any, opener: Opener) -> None:
    server.files["/f"] = bytes(200_000)
    results: list[int] = []

    def work() -> None:
        for _ in range(10):
            with opener.open(server.url("/f")) as response:
                results.append(len(response.read()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [200_000] * 40
    assert server.connections <= 4


def test_uploads_carry_their_body(server: Any, opener: Opener) -> None:
    server.default = lambda asked: asked.head(200, Content_Length=0, ETag='"e"')
    body = bytes(range(256)) * 10_000
    response = opener.open(server.url("/up"), method="PUT", body=body)
    assert response.headers["etag"] == '"e"'
    assert server.asked[0].body == body
    opener.open(server.url("/up"), method="POST")
    assert server.asked[1].headers["content-length"] == "0"


def test_a_head_request_has_no_body(server: Any, opener: Opener) -> None:
    server.files["/f"] = b"hello"
    response = opener.open(server.url("/f"), method="HEAD")
    assert response.read() == b""
    assert response.headers["content-length"] == "5"
    assert opener.open(server.url("/f")).read() == b"hello"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 429, 500, 503])
def test_error_statuses_are_typed(server: Any, opener: Opener, status: int) -> None:
    def refuse(asked: Any) -> None:
        asked.head(status, Content_Length=6, Retry_After=7)
        asked.send(b"s3cret")

    server.default = refuse
    with pytest.raises(HttpStatusError) as caught:
        opener.open(server.url("/f?sig=s3cret"), max_bytes=1)
    error = caught.value
    assert (error.status_code, error.retry_after_s, error.body) == (status, 7.0, b"s3cret")
    assert error.retryable == (status in (429, 500, 503))
    assert "s3cret" not in str(error) + repr(error)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("120", 120, 120),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0),
        ("soon", None, None),
        ("Fri, 31 Dec 2199 23:59:59 GMT", 86_400, 86_400),
        ("-5", None, None),
    ],
)
def test_retry_after(
    server: Any, opener: Opener, text: str, low: float | None, high: float | None
) -> None:
    server.default = lambda asked: asked.head(503, Content_Length=0, Retry_After=text)
    with pytest.raises(HttpStatusError) as caught:
        opener.open(server.url("/f"))
    found = caught.value.retry_after_s
    assert (low is None and found is None) or (
        low is not None and high is not None and found is not None and low <= found <= high
    )


def test_redirects_are_followed(server: Any, opener: Opener) -> None:
    server.files["/end"] = b"end"
    server.plan("/a", redirect("/b/../c?x=1"))
    server.plan("/c", redirect(server.url("/end"), 308))
    with opener.open(server.url("/a"), headers=[("Authorization", "t")]) as response:
        assert response.read() == b"end"
        assert str(response.url) == server.url("/end")
    assert [asked.headers.get("authorization") for asked in server.asked] == ["t"] * 3
    assert server.asked[1].target == "/c?x=1"


def test_credentials_stay_with_their_origin(
    server: Any, start_server: Callable[[], Any], opener: Opener
) -> None:
    other = start_server()
    other.files["/f"] = b"ok"
    server.default = redirect(other.url("/f"))
    secrets = [("Authorization", "Bearer t"), ("Cookie", "c"), ("X-Cozy-Owner", "o")]
    opener.open(server.url("/f"), headers=[*secrets, ("Range", "bytes=0-1")]).read()
    assert set(other.asked[0].headers) == {"host", "accept-encoding", "user-agent", "range"}
    with pytest.raises(UrlRefusedError):
        opener.open(server.url("/f"), method="PUT", body=b"secret")


@pytest.mark.parametrize(("status", "method"), [(303, "GET"), (302, "GET"), (307, "POST")])
def test_a_redirected_post(server: Any, opener: Opener, status: int, method: str) -> None:
    server.plan("/a", redirect("/b", status))
    server.files["/b"] = b"x"
    opener.open(server.url("/a"), method="POST", body=b"body").read()
    assert (server.asked[1].method, server.asked[1].body) == (
        method,
        b"body" if method == "POST" else b"",
    )


def test_endless_redirects_end(server: Any, opener: Opener) -> None:
    server.default = redirect("/a")
    with pytest.raises(TooManyRedirectsError, match="more than 6"):
        opener.open(server.url("/a"))
    assert len(server.asked) == 7


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest",
        "http://[::1]/",
        "file:///etc/passwd",
        "http://u@h/",
        "http://127.1/",
        "//10.0.0.1/",
    ],
)
def test_redirects_to_inner_places_are_refused(server: Any, location: str) -> None:
    server.default = redirect(location)
    trusting = Opener(trusted=[server.origin])
    with pytest.raises(UrlRefusedError):
        trusting.open(server.url("/a"))


def test_a_trusted_origin_is_reached_directly_but_not_through_others(
    server: Any, start_server: Callable[[], Any]
) -> None:
    hub = start_server()
    hub.files["/f"] = b"hub"
    server.default = redirect(hub.url("/f"))
    assert Opener(trusted=[hub.origin]).open(hub.url("/f")).read() == b"hub"
    both = Opener(trusted=[hub.origin, server.url("/any/path")])
    assert both.open(server.url("/a")).read() == b"hub"
    # A stranger's URL must not lead to the hub: here the stranger is public, by name.
    outside = Opener(
        trusted=[hub.origin],
        proxy=lambda url: Proxy("127.0.0.1", server.port, ""),
        lookup=lambda host, port: ["93.184.216.34"],
    )
    with pytest.raises(UrlRefusedError):
        outside.open("http://stranger.test/a")
    assert len(hub.asked) == 2


def test_every_address_of_a_name_must_be_public(server: Any) -> None:
    names = {"good.test": ["93.184.216.34", "10.0.0.1"]}
    opener = Opener(lookup=lambda host, port: names[host], proxy=direct)
    with pytest.raises(UrlRefusedError, match=r"10\.0\.0\.1"):
        opener.open("http://good.test/")


def test_a_name_is_looked_up_once_and_that_address_connected_to(server: Any) -> None:
    """A name server that answers differently the second time gains nothing."""
    server.files["/f"] = b"ok"
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    opener = Opener(
        trusted=[f"http://rebind.test:{server.port}"], lookup=lambda host, port: answers.pop(0)
    )
    assert opener.open(f"http://rebind.test:{server.port}/f").read() == b"ok"
    assert server.asked[0].headers["host"] == f"rebind.test:{server.port}"
    assert len(answers) == 1


def test_a_name_without_address(server: Any) -> None:
    def nothing(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "none")

    with pytest.raises(NetworkError, match="no address"):
        Opener(lookup=nothing, proxy=direct).open("http://nowhere.test/")


def test_a_lookup_that_hangs_is_left_behind(server: Any) -> None:
    def hang(host: str, port: int) -> list[str]:
        server.released.wait()
        return []

    opener = Opener(lookup=hang, connect_timeout_s=0.1, proxy=direct)
    with pytest.raises(NetworkError, match="within"):
        opener.open("http://slow.test/")
    token = CancelToken()
    threading.Timer(0.05, token.cancel).start()
    with pytest.raises(CanceledError):
        Opener(lookup=hang, proxy=direct).open("http://slow.test/", token=token)


def test_a_cancel_ends_a_connect(server: Any) -> None:
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = []
    for _ in range(4):  # a listener whose queue is full answers nobody
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
        fillers.append(filler)
    token = CancelToken()
    threading.Timer(0.1, token.cancel).start()
    since = time.monotonic()
    try:
        opener = Opener(allow_private=True, connect_timeout_s=100)
        with pytest.raises(CanceledError):
            opener.open(f"http://127.0.0.1:{full.getsockname()[1]}/", token=token)
        assert time.monotonic() - since < 60
    finally:
        for sock in [full, *fillers]:
            sock.close()


def test_caps_of_bytes(server: Any, opener: Opener) -> None:
    server.files["/f"] = b"x" * 1000
    with pytest.raises(BodyTooLargeError):
        opener.open(server.url("/f"), max_bytes=999)
    assert len(opener.open(server.url("/f"), max_bytes=1000).read()) == 1000

    def endless(asked: Any) -> None:
        asked.head(200, Transfer_Encoding="chunked")
        for _ in range(100):
            asked.send(b"64\r\n" + b"x" * 100 + b"\r\n")

    server.plan("/f", endless)
    with pytest.raises(BodyTooLargeError) as caught:
        opener.open(server.url("/f"), max_bytes=999).read()
    assert caught.value.max_bytes == 999


def opened_within_a_while(opener: Opener, url: str) -> Response:
    """Open with little time for everything: on a busy machine not too little for the head."""
    for within_s in (0.3, 3.0):
        with contextlib.suppress(NetworkError):
            return opener.open(url, within_s=within_s)
    return opener.open(url, within_s=30.0)


def test_caps_of_time(server: Any, opener: Opener) -> None:
    def drip(asked: Any) -> None:
        asked.head(200, Content_Length=10**6)
        while not server.released.wait(0.02):
            asked.send(b"x")

    server.default = drip
    with pytest.raises(DeadlineExceededError):
        opened_within_a_while(opener, server.url("/f")).read()

    def drip_head(asked: Any) -> None:
        asked.sock.sendall(b"HTTP/1.1 200 OK\r\n")
        while not server.released.wait(0.02):
            asked.sock.sendall(b"X: y\r\n")

    server.default = drip_head
    with pytest.raises(NetworkError):
        opener.open(server.url("/f"), within_s=0.3)


def test_silence_is_an_error(server: Any) -> None:
    server.default = lambda asked: server.released.wait()
    with pytest.raises(NetworkError, match="silent") as caught:
        Opener(allow_private=True, read_timeout_s=0.2).open(server.url("/f"))
    assert caught.value.retryable


def test_a_body_that_ends_early(server: Any, opener: Opener) -> None:
    server.files["/f"] = b"x" * 1000
    server.plan("/f", lambda asked: asked.serve(most=10))
    with pytest.raises(IncompleteBodyError) as caught:
        opener.open(server.url("/f")).read()
    assert (caught.value.expected_bytes, caught.value.received_bytes) == (1000, 10)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 300 + b"\r\n",
    ],
)
def test_answers_that_are_no_http(server: Any, opener: Opener, raw: bytes) -> None:
    def answer(asked: Any) -> None:
        asked.sock.sendall(raw)
        asked.stays_open = False

    server.default = answer
    with pytest.raises(NetworkError):
        opener.open(server.url("/f")).read()


def test_interim_answers_are_skipped(server: Any, opener: Opener) -> None:
    def answer(asked: Any) -> None:
        asked.head(100)
        asked.head(103, Link="x")
        asked.head(200, Content_Length=2)
        asked.send(b"ok")

    server.default = answer
    assert opener.open(server.url("/f")).read() == b"ok"


@pytest.mark.parametrize(
    ("name", "value"), [("X", "a\r\nY: b"), ("X\n", "a"), ("X y", "a"), ("X", "\u20ac"), ("", "")]
)
def test_headers_cannot_be_smuggled(opener: Opener, name: str, value: str) -> None:
    with pytest.raises(UrlRefusedError):
        opener.open("http://127.0.0.1:1/", headers=[(name, value)])


def test_the_request_line_cannot_be_smuggled(opener: Opener) -> None:
    with pytest.raises(UrlRefusedError):
        opener.open("http://127.0.0.1:1/", method="GET / HTTP/1.1\r\nX:")


# TLS, with a certificate made for the test.


class TlsServer:
    """Answers every request with `ok`, encrypted."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "cert.pem"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        subprocess.run(
            [
                *command.split(),
                "-keyout",
                folder / "key.pem",
                "-out",
                self.certificate,
                "-days",
                "2",
                "-subj",
                "/CN=tls.test",
                "-addext",
                "subjectAltName=DNS:tls.test",
            ],
            check=True,
            capture_output=True,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, folder / "key.pem")
        self.names: list[str | None] = []
        context.sni_callback = lambda sock, name, _: self.names.append(name)
        self.body = b"ok"
        self.status = b"200 OK"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._context = context
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(raw, server_side=True) as sock:
                    sock.recv(65_536)
                    head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n"
                    head %= (self.status, len(self.body))
                    sock.sendall(head + self.body)
                    sock.recv(1)
            except OSError:
                raw.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    server = TlsServer(tmp_path_factory.mktemp("tls"))
    yield server
    server.close()


def tls_opener(server: TlsServer, **options: Any) -> Opener:
    context = ssl.create_default_context(cafile=str(server.certificate))
    given: dict[str, Any] = {"lookup": lambda host, port: ["127.0.0.1"], "context": context}
    return Opener(allow_private=True, **(given | options))


def test_tls_checks_the_name_it_was_asked_for(
    tls_server: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_server, "body", bytes(3_000_000))
    opener = tls_opener(tls_server)
    with opener.open(f"https://tls.test:{tls_server.port}/") as response:
        view = memoryview(bytearray(1 << 20))
        total = 0
        while count := response.readinto(view):
            total += count
    opener.close()
    assert total == 3_000_000
    assert tls_server.names[-1] == "tls.test"
    with pytest.raises(NetworkError, match="not trusted") as caught:
        opener.open(f"https://other.test:{tls_server.port}/")
    assert not caught.value.retryable
    with pytest.raises(NetworkError, match="not trusted"):
        tls_opener(tls_server, context=None).open(f"https://tls.test:{tls_server.port}/")


def test_tls_to_a_server_that_speaks_none(server: Any, tls_server: TlsServer) -> None:
    with pytest.raises(NetworkError) as caught:
        tls_opener(tls_server, connect_timeout_s=0.5).open(f"https://tls.test:{server.port}/")
    assert caught.value.retryable


@pytest.mark.parametrize("is_trusted", [True, False])
def test_encryption_is_given_up_for_a_trusted_origin_only(
    server: Any, tls_server: TlsServer, monkeypatch: pytest.MonkeyPatch, is_trusted: bool
) -> None:
    server.files["/f"] = b"plain"
    monkeypatch.setattr(tls_server, "body", b"")
    monkeypatch.setattr(
        tls_server, "status", b"302 Found\r\nLocation: %b" % server.url("/f").encode()
    )
    opener = tls_opener(tls_server, trusted=[server.origin] if is_trusted else [])
    url = f"https://tls.test:{tls_server.port}/"
    if is_trusted:
        assert opener.open(url).read() == b"plain"
    else:
        with pytest.raises(UrlRefusedError, match="not encrypted"):
            opener.open(url)
    opener.close()


# Proxies.


def through(server: Any, **options: Any) -> Opener:
    """Return an opener whose every request goes through the scripted server."""
    given: dict[str, Any] = {"lookup": lambda host, port: ["93.184.216.34"]}
    given |= options
    return Opener(proxy=lambda url: Proxy("127.0.0.1", server.port, "Basic abc"), **given)


def test_plain_requests_ask_the_proxy(server: Any) -> None:
    server.files["http://site.test/f"] = b"through"
    opener = through(server)
    assert opener.open("http://site.test/f").read() == b"through"
    assert server.asked[0].target == "http://site.test/f"
    assert server.asked[0].headers["proxy-authorization"] == "Basic abc"
    assert server.asked[0].headers["host"] == "site.test"


def test_encrypted_requests_tunnel_through_the_proxy(server: Any, tls_server: TlsServer) -> None:
    def tunnel(asked: Any) -> None:
        asked.head(200)
        with socket.create_connection(("127.0.0.1", tls_server.port)) as far:
            asked.sock.settimeout(0.05)
            far.settimeout(0.05)
            while not server.released.is_set():
                for source, sink in ((asked.sock, far), (far, asked.sock)):
                    try:
                        data = source.recv(65_536)
                    except TimeoutError:
                        continue
                    if not data:
                        return
                    sink.sendall(data)

    server.default = tunnel
    context = ssl.create_default_context(cafile=str(tls_server.certificate))
    opener = through(server, context=context)
    assert opener.open("https://tls.test/").read() == b"ok"
    opener.close()
    assert (server.asked[0].method, server.asked[0].target) == ("CONNECT", "tls.test:443")
    server.default = lambda asked: asked.head(407, Content_Length=0)
    with pytest.raises(NetworkError, match="407"):
        opener.open("https://tls.test/")


def test_a_proxy_is_no_way_around_the_address_check(server: Any) -> None:
    opener = through(server)
    with pytest.raises(UrlRefusedError):
        opener.open("http://169.254.169.254/")
    with pytest.raises(UrlRefusedError):
        through(server, lookup=lambda host, port: ["10.0.0.1"]).open("http://inner.test/")
    assert server.asked == []


def test_the_environment_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    plain, secure = parse_url("http://a.test/"), parse_url("https://a.test/")
    assert environment_proxy(secure) is None
    monkeypatch.setenv("https_proxy", "http://us%40er:s3cret@proxy.test:3128")
    found = environment_proxy(secure)
    assert found == ("proxy.test", 3128, "Basic dXNAZXI6czNjcmV0")
    assert repr(found) == "proxy.test:3128"
    assert environment_proxy(plain) is None
    monkeypatch.setenv("ALL_PROXY", "other.test")
    assert environment_proxy(plain) == ("other.test", 80, "")
    monkeypatch.setenv("NO_PROXY", "a.test")
    assert environment_proxy(secure) is None
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("https_proxy", "socks5://s3cret@h:1")
    with pytest.raises(UrlRefusedError, match="socks5") as caught:
        environment_proxy(secure)
    assert "s3cret" not in str(caught.value)
