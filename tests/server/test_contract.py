"""What the OpenAPI document promises, under requests that schemathesis makes up."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CHECKS

from samus_edge.runtime import Segmenter
from samus_edge.server.app import create_app
from samus_edge.server.settings import ServerSettings


@pytest.fixture(scope="module")
def running(segmenter: Segmenter) -> Iterator[tuple[Any, str]]:
    """The schema of a running app, and an image that it keeps."""
    app = create_app(ServerSettings(requests_per_second=0), segmenter)
    with TestClient(app, base_url="http://localhost") as client:
        image = client.post("/v1/images", params={"example": "benign_120.png"}).json()
        yield (
            schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": "localhost"}),
            image["id"],
        )


MAX_EXAMPLES = 20
CHOSEN = [
    check
    for check in CHECKS.get_all()
    if check.__name__
    in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
    )
]


def test_every_answer_is_one_that_is_promised(running: tuple[Any, str]) -> None:
    schema, image = running
    # One by one: schemathesis' own plugin does not go with pytest 9.
    tried, statuses = [], set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=MAX_EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def answers_as_promised(case: Any) -> None:
            # Made up, there is no such image; also with one that is there, where it stays there.
            if case.method != "DELETE" and "image_id" in case.path_parameters:
                case.path_parameters["image_id"] = image
            response = case.call(headers={"Host": "localhost"})
            statuses.add(response.status_code)
            case.validate_response(response, checks=CHOSEN)

        answers_as_promised()
        tried.append(operation.label)
    assert "POST /v1/images/{image_id}/masks" in tried
    assert len(tried) > 10
    assert {200, 201, 204, 404, 422} <= statuses


def test_every_route_is_described(running: tuple[Any, str]) -> None:
    schema, _ = running
    paths = schema.raw_schema["paths"]
    assert {"/healthz", "/v1/images", "/v1/images/{image_id}/masks"} <= set(paths)
    for operations in paths.values():
        for operation in operations.values():
            assert operation.get("description") or operation.get("summary")
