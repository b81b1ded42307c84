"""What clients may get wrong, and who may ask at all. None of it is a 500, and each answer is a problem document."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import SecretStr

from autogpt_server.data.db import Database
from autogpt_server.server.app import create_app
from autogpt_server.server.context import ServerContext
from autogpt_server.server.live import LiveRuns
from autogpt_server.utils.settings import Settings
from server.api import Api, Told, problem
from server.sample_blocks import BLOCKS, named_graph

JSON = {"Content-Type": "application/json"}


class TestBodies:
    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b"",
            b"[1]",
            b"null",
            b'{"nodes": NaN}',
            b'{"nodes": [], "x": Infinity}',
            b'{"nodes": [], "x": 1e999}',
            b'{"name": "\\ud800"}',
            b'{"name": "\xff"}',
            b"[" * 100_000,
            b'{"x": ' + b"[" * 200 + b"]" * 200 + b"}",
            b'{"version": ' + b"9" * 5000 + b"}",
            b'{"nodes": {}}',
            b'{"nodes": [{"id": 5}]}',
            b'{"links": [{}]}',
            b'{"nodes": [{"id": "a", "block_id": "b", "input_default": []}]}',
        ],
        ids=lambda body: repr(body[:24]),
    )
    async def test_what_is_no_graph_is_refused(self, api: Api, body: bytes) -> None:
        response = await api.client.post("/graphs", content=body, headers=JSON)
        assert response.status_code == 422, response.text
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] in {"invalid_body", "invalid_request"}

    async def test_places_are_named_and_values_are_not_repeated(self, api: Api) -> None:
        body = {"nodes": [{"id": "a", "block_id": "b", "input_default": "hunter2"}]}
        document = problem(await api.client.post("/graphs", json=body), 422, "invalid_request")
        [error] = document["errors"]
        assert (error["code"], error["pin"]) == ("invalid_body", "nodes[0].input_default")
        assert "hunter2" not in str(document)

    async def test_no_content_type_is_taken_for_json(self, api: Api) -> None:
        assert (await api.client.post("/graphs", content=b'{"name": "x"}')).status_code == 200

    @pytest.mark.parametrize(
        "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "nonsense"]
    )
    async def test_other_media_types_are_refused(self, api: Api, media_type: str) -> None:
        response = await api.client.post("/graphs", content=b"{}", headers={"Content-Type": media_type})
        problem(response, 415, "unsupported_media_type")

    async def test_a_body_that_is_too_large_is_refused(self, api: Api) -> None:
        too_large = b'{"name": "' + b"x" * api.context.settings.max_request_bytes + b'"}'
        problem(await api.client.post("/graphs", content=too_large, headers=JSON), 413, "request_too_large")

        async def unannounced() -> AsyncIterator[bytes]:
            yield too_large

        problem(await api.client.post("/graphs", content=unannounced(), headers=JSON), 413, "request_too_large")

    async def test_a_graph_that_is_too_large_is_refused(self, api: Api) -> None:
        body = {"name": "x" * (api.context.settings.max_graph_bytes + 1)}
        problem(await api.client.post("/graphs", json=body), 413, "graph_too_large")


class TestPaths:
    async def test_nothing_there(self, api: Api) -> None:
        problem(await api.client.get("/nothing/here"), 404, "not_found")

    async def test_a_method_that_is_not_possible(self, api: Api) -> None:
        response = await api.client.patch("/graphs")
        problem(response, 405, "method_not_allowed")
        assert set(response.headers["allow"].replace(" ", "").split(",")) >= {"GET"}

    @pytest.mark.parametrize(
        "path",
        ["/graphs/%00", "/graphs/%ff", "/executions/%F0%9F%92%A9", "/graphs/..%2f..%2fetc", "/executions/" + "x" * 300],
    )
    async def test_strange_ids(self, api: Api, path: str) -> None:
        response = await api.client.get(path)
        assert response.status_code in {404, 422}
        assert response.headers["content-type"] == "application/problem+json"


class TestHosts:
    @pytest.mark.parametrize(
        "host",
        [
            "localhost",
            "localhost:8000",
            "LOCALHOST.",
            "127.0.0.1",
            "127.8.9.1:80",
            "[::1]:8000",
            "0.0.0.0:8000",
            "app.localhost",
        ],
    )
    async def test_names_of_this_machine_pass(self, api: Api, host: str) -> None:
        assert (await api.client.get("/health", headers={"Host": host})).status_code == 200

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.168.1.7",
            "[::2]",
            "[",
            "",
            "user@localhost@evil.example",
        ],
    )
    async def test_other_names_do_not(self, api: Api, host: str) -> None:
        problem(await api.client.get("/health", headers={"Host": host}), 421, "wrong_host")

    @pytest.mark.parametrize(
        "origin",
        [
            "https://evil.example",
            "null",
            "http://localhost.evil.example",
            "file://",
            "http://[",
            "http://localhost@evil.example",
        ],
    )
    async def test_pages_from_elsewhere_are_refused(self, api: Api, origin: str) -> None:
        problem(await api.client.post("/graphs", json={}, headers={"Origin": origin}), 403, "origin_refused")

    async def test_a_page_on_this_machine_may_ask(self, api: Api) -> None:
        origin = "http://localhost:3000"
        response = await api.client.post("/graphs", json={"name": "x"}, headers={"Origin": origin})
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == origin
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "content-type",
        }
        preflight = await api.client.options("/graphs/x", headers=asked)
        assert preflight.status_code == 204
        assert "PUT" in preflight.headers["access-control-allow-methods"]
        assert "X-API-Key" in preflight.headers["access-control-allow-headers"]


class TestKeys:
    @pytest.fixture
    async def client(self, settings: Settings, db: Database) -> AsyncIterator[httpx.AsyncClient]:
        settings = settings.model_copy(
            update={
                "api_keys": (SecretStr("first-key"), SecretStr("zweiter-schlüssel")),
                "allowed_hosts": ("Agents.Example",),
            }
        )
        app = create_app(ServerContext(settings, db, BLOCKS, LiveRuns(db), Told()))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://agents.example"
        ) as client:
            yield client

    @pytest.mark.parametrize(
        "headers", [{}, {"X-API-Key": "wrong"}, {"X-API-Key": ""}, {"Authorization": "Bearer first-key"}]
    )
    async def test_without_a_key_there_is_no_answer(self, client: httpx.AsyncClient, headers: dict[str, str]) -> None:
        response = await client.get("/graphs", headers=headers)
        problem(response, 401, "missing_api_key")
        assert "X-API-Key" in response.headers["www-authenticate"]
        problem(await client.get("/metrics", headers=headers), 401, "missing_api_key")
        problem(await client.get("/nothing/here", headers=headers), 401, "missing_api_key")

    @pytest.mark.parametrize("key", ["first-key", "zweiter-schlüssel".encode()])
    async def test_each_key_opens(self, client: httpx.AsyncClient, key: str | bytes) -> None:
        assert (
            await client.get("/graphs", headers={b"X-API-Key": key if isinstance(key, bytes) else key.encode()})
        ).status_code == 200

    @pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/health", "/ready"])
    async def test_what_holds_nothing_of_the_user_is_open(self, client: httpx.AsyncClient, path: str) -> None:
        assert (await client.get(path)).status_code == 200

    async def test_a_page_learns_that_it_needs_a_key(self, client: httpx.AsyncClient) -> None:
        response = await client.get("/graphs", headers={"Origin": "https://agents.example"})
        assert response.status_code == 401
        assert response.headers["access-control-allow-origin"] == "https://agents.example"


async def test_what_nobody_foresaw_shows_an_incident_and_nothing_else(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("the secret of the database")

    monkeypatch.setattr(type(api.context.presenter), "run_input", explode)
    graph = await api.post_graph(named_graph())
    run_id = await api.execute(graph["id"], {"topic": 1})
    document = problem(await api.client.get(f"/executions/{run_id}"), 500, "internal_error")
    assert "secret" not in str(document)
    incident = document["instance"].removeprefix("urn:uuid:")
    [record] = [record for record in caplog.records if record.getMessage() == "request failed"]
    fields = vars(record)["event_fields"]
    assert fields["incident"] == incident
    assert "the secret of the database" in fields["traceback"]
