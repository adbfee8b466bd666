"""For monitoring: does the process live, and can it issue?"""

import json

from quart import Blueprint, Response

from certbob.web.context import services
from certbob.web.security import monitoring, public

blueprint = Blueprint("ops", __name__)


@blueprint.get("/healthz")
@public
async def healthz() -> Response:
    return Response("ok\n", content_type="text/plain; charset=utf-8")


@blueprint.get("/readyz")
@public
async def readyz() -> Response:
    """A reason for each thing that is missing; 503 when there is one."""
    checks = {"storage": await services().storage_health(), "ca": await services().ca.health()}
    single_sign_on = services().single_sign_on
    if single_sign_on is not None:
        checks["oidc"] = single_sign_on.trouble()
    revocation_list = services().revocation_list
    if revocation_list is not None:
        checks["crl"] = revocation_list.trouble()
    published_list = services().published_list
    if published_list is not None:
        checks["crl"] = published_list.trouble()
    ready = all(reason is None for reason in checks.values())
    body = {"ready": ready, "checks": {name: reason or "ok" for name, reason in checks.items()}}
    return Response(json.dumps(body) + "\n", 200 if ready else 503, content_type="application/json")


@blueprint.get("/metrics")
@monitoring
async def metrics() -> Response:
    return Response(
        services().metrics.exposition(services()), content_type="text/plain; version=0.0.4; charset=utf-8"
    )
