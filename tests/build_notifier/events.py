"""Messages as Cloud Build sends them."""

import base64
import json
from typing import Any

BUILD_ID = "0a1b2c3d-1111-2222-3333-444455556666"


def build(status: str = "FAILURE", **fields: Any) -> dict[str, Any]:
    """A build's JSON, with what Cloud Build adds to it."""
    return {
        "id": BUILD_ID,
        "projectId": "acme",
        "status": status,
        "logUrl": f"https://console.cloud.google.com/cloud-build/builds/{BUILD_ID}?project=1",
        "createTime": "2026-11-21T08:00:00.123456789Z",
        "finishTime": "2026-11-21T08:05:00.123456789Z",
        "steps": [
            {"id": "package", "name": "uv", "status": "SUCCESS"},
            {"id": "build", "name": "docker", "status": status},
        ],
        "failureInfo": {"type": "USER_BUILD_STEP", "detail": "Build step failure"},
        "aFieldOfNextYear": True,
        **fields,
    }


def message(document: Any) -> dict[str, Any]:
    """The Pub/Sub message around it."""
    data = document if isinstance(document, str) else json.dumps(document)
    return {"data": base64.b64encode(data.encode()).decode(), "attributes": {"buildId": BUILD_ID}}
