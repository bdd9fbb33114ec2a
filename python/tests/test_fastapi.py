"""The FastAPI dependency, against the embedded store of a small project."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import pytest

import springhouse
from springhouse import Features, InvalidInput, SpringhouseError
from springhouse.fastapi import features, lifespan, on_error

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import Body, Depends, FastAPI, Query, Request  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402


@pytest.fixture
def loaded(project: Path) -> Path:
    with springhouse.open(project) as store:
        store.apply()
        store.materialize(progress=False)
    return project


def answering(app: FastAPI, path: str, dependency: Any, method: str = "GET") -> FastAPI:
    """The app, with an endpoint that says what features it was given."""

    @app.api_route(path, methods=[method])
    def endpoint(answer: Features = Depends(dependency)) -> dict[str, Any]:
        return {"orders": answer["orders_lifetime"], "usual": answer.to_dict().get("basket_to_usual")}

    return app


def test_keys_come_from_the_path_and_request_fields_from_the_query(loaded: Path) -> None:
    dependency = features(None, "checkout", entities={"user": int}, request={"basket": float})
    app = answering(FastAPI(lifespan=lifespan(loaded)), "/users/{user}", dependency)
    with TestClient(app) as client:
        assert client.get("/users/1", params={"basket": 20.0}).json() == {"orders": [2], "usual": [20.0 - 15.25]}
        documented = client.get("/openapi.json").json()["paths"]["/users/{user}"]["get"]["parameters"]
    assert {p["name"]: (p["in"], p["schema"]["type"]) for p in documented} == {
        "user": ("path", "integer"),
        "basket": ("query", "number"),
    }


def test_a_list_is_one_row_per_item(loaded: Path) -> None:
    dependency = features(None, ["spending"], entities={"user": Annotated[list[int], Query()]})
    app = answering(FastAPI(lifespan=lifespan(loaded)), "/users", dependency)
    with TestClient(app) as client:
        assert client.get("/users?user=2&user=1&user=3").json()["orders"] == [1, 2, 0]


def test_fields_come_from_the_body(loaded: Path) -> None:
    dependency = features(
        None,
        "checkout",
        entities={"user": Annotated[int, Body(embed=True)]},
        request={"basket": Annotated[float, Body(embed=True)]},
    )
    app = answering(FastAPI(lifespan=lifespan(loaded)), "/users", dependency, "POST")
    with TestClient(app) as client:
        assert client.post("/users", json={"user": 1, "basket": 15.25}).json() == {"orders": [2], "usual": [0.0]}
        assert client.post("/users", json={"user": 1}).status_code == 422


def test_a_store_or_a_function_that_gives_one_can_be_given(loaded: Path) -> None:
    with springhouse.open(loaded) as store:
        for given in (store, lambda: store):
            dependency = features(given, ["spending"], entities={"user": int})
            assert TestClient(answering(FastAPI(), "/", dependency)).get("/?user=2").json()["orders"] == [1]


def test_an_error_is_an_http_error_with_its_code_and_hint(loaded: Path) -> None:
    app = FastAPI(lifespan=lifespan(loaded))
    answering(app, "/service", features(None, "chekout", entities={"user": int}))
    answering(app, "/key", features(None, ["spending"], entities=["user"]))
    with TestClient(app) as client:
        answer = client.get("/service?user=1")
        assert answer.status_code == 404
        assert answer.json()["detail"]["code"] == "unknown_service"
        assert "checkout" in answer.json()["detail"]["hint"]
        answer = client.get("/key?user=Jane")
        assert answer.status_code == 400
        assert set(answer.json()["detail"]) == {"code", "message", "hint", "trace_id"}


def test_an_endpoints_own_errors_are_answered_too(loaded: Path) -> None:
    app = FastAPI(lifespan=lifespan(loaded))
    app.add_exception_handler(SpringhouseError, on_error)

    @app.post("/orders")
    def endpoint(request: Request) -> int:
        return int(request.app.state.springhouse.push("orders", {"order": "o9"}).accepted)

    with TestClient(app) as client:
        answer = client.post("/orders")
    assert (answer.status_code, answer.json()["detail"]["code"]) == (400, "rows_refused")


def test_lifespan_closes_the_store(loaded: Path) -> None:
    app = answering(FastAPI(lifespan=lifespan(str(loaded))), "/", features(None, ["spending"], entities={"user": int}))
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/?user=1").json()["orders"] == [2]


def test_an_app_without_a_store_is_told_so() -> None:
    app = answering(FastAPI(), "/", features(None, ["spending"], entities={"user": int}))
    with pytest.raises(RuntimeError, match="lifespan"):
        TestClient(app).get("/?user=1")


def test_a_name_that_no_parameter_can_have_is_refused() -> None:
    for entities, request in ((["user-id"], []), (["from"], []), (["user"], ["user"])):
        with pytest.raises(InvalidInput) as refused:
            features(None, "checkout", entities=entities, request=request)
        assert refused.value.code == "invalid_argument"


def test_without_fastapi_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(InvalidInput) as refused:
        features(None, "checkout", entities=["user"])
    assert (refused.value.code, refused.value.hint) == ("missing_package", "pip install fastapi")
