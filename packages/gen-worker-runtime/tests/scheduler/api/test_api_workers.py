"""Workers, models, demand and tokens over HTTP, and who may ask for what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.runtime.scheduler.fleet import WorkerView
from gen_worker.runtime.scheduler.fleet.views import DeviceView

if TYPE_CHECKING:
    from conftest import RunApi


def worker(worker_id: str, release_id: str, **fields: Any) -> WorkerView:
    facts: dict[str, Any] = {
        "state": "ready",
        "functions": ("draw",),
        "loading": (),
        "unavailable": {"count": "no GPU"},
        "devices": (DeviceView(kind="gpu", index=0, name="T4", slots=1, running=0),),
        "running": (),
        "models": {"acme/flux": "vram"},
        "heard_at": 2.0,
        "joined_at": 1.0,
    }
    return WorkerView(id=worker_id, release_id=release_id, **facts | fields)


async def test_workers_and_models_are_listed(run_api: RunApi) -> None:
    async with run_api() as host:
        release_id = await host.publish()
        host.hands.views = [worker("w1", release_id), worker("w2", "r-gone")]
        first, second = (await host.http.get("/v1/workers")).json()["workers"]
        assert (first["worker_id"], first["owner"], first["endpoint"]) == ("w1", "acme", "paint")
        assert (second["worker_id"], second["endpoint"]) == ("w2", "")
        assert first["devices"][0]["name"] == "T4"
        assert first["unavailable"] == {"count": "no GPU"}
        models = (await host.http.get("/v1/models")).json()["models"]
        assert models == [{"ref": "acme/flux", "size_bytes": 5, "workers": {"w1": "vram"}}]


async def test_a_worker_is_drained(run_api: RunApi) -> None:
    async with run_api() as host:
        host.hands.views = [worker("w1", "r")]
        body = {"deadline_ms": 1500, "reason": "new release"}
        found = await host.http.post("/v1/workers/w1/drain", json=body)
        assert found.json() == {"worker_id": "w1", "draining": True}
        assert (await host.http.post("/v1/workers/w1/drain")).status_code == 200
        assert host.hands.drained == [("w1", 1.5, "new release"), ("w1", 0.0, "operator")]
        found = await host.http.post("/v1/workers/nope/drain")
        assert (found.status_code, found.json()["error"]) == (404, "unknown_worker")
        wrongs: list[Any] = [
            {"deadline_ms": -1},
            {"deadline_ms": 10**20},
            {"reason": "x" * 501},
            [],
        ]
        for wrong in wrongs:
            found = await host.http.post("/v1/workers/w1/drain", json=wrong)
            assert found.status_code == 400


async def test_demand_says_what_is_wanted_of_each_release(run_api: RunApi) -> None:
    async with run_api() as host:
        one = await host.publish()
        await host.publish(b"two")  # which no tag means and nobody calls
        host.hands.views = [worker("w1", one), worker("w2", one)]
        for function in ("draw", "draw", "count"):
            body: dict[str, Any] = {"function": function, "payload": {}}
            await host.http.post("/v1/requests", json=body)
        await host.hands.take()
        (row,) = (await host.http.get("/v1/demand")).json()["releases"]
        assert row.pop("oldest_wait_s") >= 0
        assert row == {
            "owner": "acme",
            "endpoint": "paint",
            "release_id": one,
            "environment": "cpu",
            "tags": ["prod"],
            "waiting": 2,
            "running": 1,
            "workers": 2,
        }


async def test_a_worker_is_given_what_it_is_started_with(run_api: RunApi) -> None:
    async with run_api() as host:
        release_id = await host.publish()
        for asked in ({"tag": "prod"}, {"release_id": release_id}, {}):
            body = {"owner": "acme", "endpoint": "paint", **asked}
            found = await host.http.post("/v1/workers/tokens", json=body)
            assert found.status_code == 201, found.text
            ticket = found.json()
            assert ticket["token"].startswith(f"jwt {release_id} acme {ticket['worker_id']}")
            with open(ticket["lock"], "rb") as file:
                assert file.read() == host.lock_of("draw", "count*")
        named = await host.http.post("/v1/workers/tokens", json={**body, "worker_id": "mine"})
        assert named.json()["worker_id"] == "mine"
        for wrong, status in (
            ({"tag": "nope"}, 404),
            ({"release_id": "r-nope"}, 404),
            ({"endpoint": "nope"}, 404),
            ({"endpoint": ""}, 400),
            ({"worker_id": "a b"}, 400),
            ({"ttl_s": 0}, 400),
        ):
            found = await host.http.post("/v1/workers/tokens", json={**body, **wrong})
            assert found.status_code == status, found.text


async def test_figures(run_api: RunApi) -> None:
    async with run_api() as host:
        await host.http.post("/v1/requests", json={"function": "draw", "payload": {}})
        status = (await host.http.get("/v1/status")).json()
        assert status["scheduler"]["waiting"] == 1
        assert status["functions"] == ["count", "draw"]
        assert (await host.http.get("/metrics")).text == "up 1\n"
        assert (await host.http.get("/readyz")).status_code == 200
        assert (await host.http.post("/v1/warmup/draw")).status_code == 404


async def test_a_full_disk_is_no_place_for_requests(run_api: RunApi) -> None:
    async with run_api() as host:
        writer = host.ledger._database.writer
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages}")
        body = {"function": "draw", "payload": {"text": "x" * 100_000}}
        refused = await host.http.post("/v1/requests", json=body)
        assert (refused.status_code, "path" in refused.json()) == (503, False)
        ready = await host.http.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["reasons"] == ["the disk cannot be written: make room on it"]
        writer.execute("PRAGMA max_page_count = 1000000000")
        assert (await host.http.post("/v1/requests", json=body)).status_code == 202
        assert (await host.http.get("/readyz")).status_code == 200


# -- who may ask -----------------------------------------------------------------------------------

ROUTES: list[tuple[str, str, set[str]]] = [
    ("POST", "/v1/request/draw", {"invoke"}),
    ("GET", "/v1/requests", {"invoke", "read"}),
    ("GET", "/v1/functions", {"invoke", "read", "deploy", "worker"}),
    ("GET", "/v1/workers", {"read"}),
    ("POST", "/v1/workers/w1/drain", set()),
    ("POST", "/v1/workers/tokens", {"worker"}),
    ("GET", "/v1/models", {"read"}),
    ("GET", "/v1/demand", {"read", "deploy"}),
    ("GET", "/v1/releases", {"read", "deploy", "worker"}),
    ("POST", "/v1/releases", {"deploy"}),
    ("DELETE", "/v1/releases/acme/paint/r", {"deploy"}),
    ("GET", "/v1/tags", {"read", "deploy"}),
    ("POST", "/v1/tags", {"deploy"}),
    ("GET", "/v1/tags/history", {"read", "deploy"}),
    ("GET", "/v1/tokens", set()),
    ("POST", "/v1/tokens", set()),
    ("DELETE", "/v1/tokens/x", set()),
    ("GET", "/v1/status", {"read"}),
    ("GET", "/metrics", {"read"}),
]


async def test_routes_want_scopes(run_api: RunApi) -> None:
    async with run_api(has_tokens=True) as host:
        host.hands.is_eager = True
        for scope in ("invoke", "read", "deploy", "worker", "admin"):
            issued = await host.tokens.issue([scope])
            async with host.client(issued.token) as client:
                for method, path, scopes in ROUTES:
                    found = await client.request(method, path, content=b"")
                    is_allowed = scope in scopes or scope == "admin"
                    assert (found.status_code != 403) == is_allowed, (scope, method, path)
                    assert found.status_code < 500
        async with host.client() as client:
            for method, path, _ in ROUTES:
                assert (await client.request(method, path)).status_code == 401


async def test_a_token_of_an_owner_sees_and_changes_only_what_is_its_own(run_api: RunApi) -> None:
    async with run_api(has_tokens=True) as host:
        await host.publish(owner="acme")
        await host.publish(owner="evil")
        issued = await host.tokens.issue(["invoke", "read", "deploy"], owner="acme")
        body = {"function": "acme/paint/draw", "payload": {}}
        for owner in ("acme", "evil"):
            fields = {"owner": owner, "request_id": f"of-{owner}"}
            assert (await host.http.post("/v1/requests", json=body | fields)).status_code == 202
        async with host.client(issued.token) as client:
            rows = (await client.get("/v1/requests")).json()["requests"]
            assert [row["request_id"] for row in rows] == ["of-acme"]
            assert (await client.get("/v1/requests?owner=evil")).status_code == 403
            for path in ("", "/events"):
                found = await client.get(f"/v1/requests/of-evil{path}")
                assert (found.status_code, found.json()["error"]) == (404, "unknown_request")
            assert (await client.delete("/v1/requests/of-evil")).status_code == 404
            assert (await client.post("/v1/requests", json=body)).json()["owner"] == "acme"
            found = await client.post("/v1/requests", json=body | {"owner": "evil"})
            assert found.status_code == 403
            releases = (await client.get("/v1/releases")).json()["releases"]
            assert {row["owner"] for row in releases} == {"acme"}
            for method, path in (
                ("GET", "/v1/workers"),
                ("GET", "/v1/models"),
                ("GET", "/v1/demand"),
                ("GET", "/v1/releases?owner=evil"),
                ("POST", "/v1/releases?owner=evil&endpoint=x"),
                ("GET", "/v1/releases/evil/paint/r"),
                ("DELETE", "/v1/releases/evil/paint/r"),
            ):
                found = await client.request(method, path)
                assert found.status_code == 403, path
            move = {"action": "rollback", "owner": "evil", "endpoint": "paint"}
            assert (await client.post("/v1/tags", json=move)).status_code == 403
            release_id = releases[0]["release_id"]
            shown = (await client.get(f"/v1/releases/acme/paint/{release_id}")).json()
            assert shown["source"] is None, "folders are for who may start workers"


async def test_a_token_for_workers_starts_them_and_does_nothing_else(run_api: RunApi) -> None:
    async with run_api(has_tokens=True) as host:
        release_id = await host.publish(owner="acme")
        await host.publish(owner="evil")
        path = f"/v1/releases/acme/paint/{release_id}"
        of_one = await host.tokens.issue(["worker"], owner="acme")
        for token in ("starter", of_one.token):
            async with host.client(token) as client:
                shown = (await client.get(path)).json()
                body = {"owner": "acme", "endpoint": "paint"}
                ticket = (await client.post("/v1/workers/tokens", json=body)).json()
                assert (shown["source"], shown["lock"]) == (ticket["source"], ticket["lock"])
                others = await client.post("/v1/workers/tokens", json=body | {"owner": "evil"})
                assert others.status_code == (201 if token == "starter" else 403)
                assert (await client.delete(path)).status_code == 403
                assert (await client.get("/v1/requests")).status_code == 403


async def test_an_owner_is_one_name_wherever_it_comes_in(run_api: RunApi) -> None:
    async with run_api(owner="Me & You") as host:
        body: dict[str, Any] = {"function": "acme/paint/draw", "payload": {}}
        for given, meant in (({}, "me-you"), ({"owner": "Ada_Lovelace"}, "ada-lovelace")):
            found = await host.http.post("/v1/requests", json=body | given)
            assert found.json()["owner"] == meant
        rows = (await host.http.get("/v1/requests?owner=ADA lovelace")).json()["requests"]
        assert [row["owner"] for row in rows] == ["ada-lovelace"]
        for wrong, told in (("/", "name it with some of a-z0-9"), ("o" * 97, "take at most 96")):
            for answer in (
                await host.http.post("/v1/requests", json=body | {"owner": wrong}),
                await host.http.post("/v1/tokens", json={"scopes": ["read"], "owner": wrong}),
                await host.http.post(f"/v1/releases?owner={wrong}&endpoint=x"),
                await host.http.get("/v1/requests", params={"owner": wrong}),
            ):
                assert (answer.status_code, told in answer.text) == (400, True), answer.text


async def test_tokens_are_issued_listed_and_revoked(run_api: RunApi) -> None:
    async with run_api(has_tokens=True) as host:
        asked = {"scopes": ["invoke"], "owner": "Ada", "name": "ci"}
        issued = (await host.http.post("/v1/tokens", json=asked)).json()
        async with host.client(issued["token"]) as client:
            assert (await client.get("/v1/requests")).status_code == 200
            (row,) = (await host.http.get("/v1/tokens")).json()["tokens"]
            assert "token" not in row
            assert (row["owner"], row["scopes"], row["name"]) == ("ada", ["invoke"], "ci")
            assert len(row["used_on"]) == len("2030-01-31")
            path = f"/v1/tokens/{row['token_id']}"
            assert (await host.http.delete(path)).json()["revoked"] is True
            assert (await host.http.delete(path)).status_code == 404
            assert (await client.get("/v1/requests")).status_code == 401
        wrongs: list[dict[str, Any]] = [{}, {"scopes": []}, {"scopes": ["root"]}]
        for wrong in (*wrongs, {"scopes": ["read"], "owner": "/"}):
            assert (await host.http.post("/v1/tokens", json=wrong)).status_code == 400


async def test_the_document_describes_every_route(run_api: RunApi) -> None:
    async with run_api() as host:
        document = (await host.http.get("/openapi.json")).json()
        paths = document["paths"]
        for method, path, _ in ROUTES:
            known = (
                path.replace("/w1/", "/{id}/")
                .replace("/acme/paint/r", "/{owner}/{endpoint}/{release_id}")
                .replace("/tokens/x", "/tokens/{id}")
                .replace("/request/draw", "/request/acme/paint/draw")
            )
            assert method.lower() in paths[known], known
        assert "/v1/warmup/{function}" not in paths
        assert "/v1/models/load" not in paths
        ids = [
            operation["operationId"]
            for item in paths.values()
            for name, operation in item.items()
            if name != "parameters"
        ]
        assert len(ids) == len(set(ids))
        names = document["components"]["schemas"]
        assert references(document) <= {f"#/components/schemas/{name}" for name in names}
        validator = pytest.importorskip("openapi_spec_validator", reason="it is not installed here")
        validator.validate(document)


def references(part: Any) -> set[str]:
    if isinstance(part, list):
        return {ref for item in part for ref in references(item)}
    if not isinstance(part, dict):
        return set()
    own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
    return own | {ref for value in part.values() for ref in references(value)}
