"""Deployments follow an autoscaler; an API that refuses, hangs or talks nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from tierpool.contracts.scaling import PoolDecision
from tierpool.pools.autoscaler.acting import NotScaled
from tierpool.pools.autoscaler.kubernetes import Cluster, Deployments
from tierpool.pools.autoscaler.pages import serve_autoscaler
from tierpool.pools.endpoint import Listen

from .autoscalers import EIGHT, Wanting, scaler, state_of
from .conftest import REVIEW, Start
from .worker_process import fetched


@dataclass
class Api:
    """What of a cluster's API scaling needs, over real HTTP."""

    replicas: dict[str, int]
    patches: list[tuple[str, int]] = field(default_factory=list)
    url: str = ""
    says: web.Response | None = None
    """Answers everything, if it is set."""
    silent: asyncio.Event | None = None
    """Nothing is answered before it is set."""

    async def get(self, request: web.Request) -> web.Response:
        if self.silent is not None:
            await self.silent.wait()
        if self.says is not None:
            return self.says
        name = request.match_info["name"]
        if name not in self.replicas:
            return self._refuse(404, f'deployments.apps "{name}" not found')
        return web.json_response({"spec": {"replicas": self.replicas[name]}})

    async def patch(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name.endswith("-standard"):
            return self._refuse(403, "deployments.apps/scale is forbidden")
        assert "application/merge-patch+json" == request.content_type
        self.replicas[name] = (await request.json())["spec"]["replicas"]
        self.patches.append((name, self.replicas[name]))
        return web.json_response({"spec": {"replicas": self.replicas[name]}})

    def _refuse(self, status: int, message: str) -> web.Response:
        body = {"kind": "Status", "message": message, "code": status}
        return web.json_response(body, status=status)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    known = Api({"acme-nano": 1, "acme-standard": 1})
    app = web.Application()
    path = "/apis/apps/v1/namespaces/agents/deployments/{name}/scale"
    app.router.add_get(path, known.get)
    app.router.add_patch(path, known.patch)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    known.url = f"http://{host}:{port}"
    yield known
    await runner.cleanup()


def decided(pool: str, workers: int) -> PoolDecision:
    return PoolDecision.model_validate(
        {"pool": pool, "at": "2026-01-01T00:00:00Z", "workers": workers}
    )


async def test_deployments_follow_and_one_that_refuses_does_not_hold_up_others(
    api: Api,
) -> None:
    names = {"standard": "acme-standard", "gone": "acme-gone", "nano": "acme-nano"}
    target = Deployments(Cluster(api.url, "agents"), names, 45.0)
    wanted = [decided("standard", 3), decided("gone", 2), decided("nano", 4)]

    with pytest.raises(NotScaled) as refused:
        await target.scale(wanted, {})
    with pytest.raises(NotScaled):
        await target.scale(wanted, {})

    assert "acme-standard: the API answered 403: deployments.apps/scale" in str(
        refused.value
    )
    assert "acme-gone: the API answered 404" in str(refused.value)
    assert [("acme-nano", 4)] == api.patches


async def test_a_cluster_that_is_away_is_told_and_nothing_is_lost() -> None:
    target = Deployments(Cluster("http://127.0.0.1:9", "agents"), {"nano": "n"}, 45.0)

    with pytest.raises(NotScaled, match="n: "):
        await target.scale([decided("nano", 2)], {})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"text": "<html>", "content_type": "text/html"}, "200 and no JSON object"),
        ({"text": "[1]", "content_type": "application/json"}, "200 and no JSON object"),
        ({"text": '{"spec": null}'}, "no Scale: is it a cluster's API?"),
        ({"text": '{"spec": [1]}'}, "no Scale: is it a cluster's API?"),
        ({"text": '{"spec": {"replicas": "2"}}'}, "no Scale: is it a cluster's API?"),
        ({"text": "{}"}, "no Scale: is it a cluster's API?"),
        ({"text": "{}", "status": 302}, "the API answered 302"),
        ({"text": "away", "status": 503}, "the API answered 503"),
        ({"text": '{"message": "no"}', "status": 401}, "the API answered 401: no"),
    ],
)
async def test_nonsense_is_told_and_changes_nothing(
    api: Api, answer: dict[str, object], said: str
) -> None:
    api.says = web.Response(**answer)  # type: ignore[arg-type]
    target = Deployments(Cluster(api.url, "agents"), {"nano": "acme-nano"}, 45.0)

    with pytest.raises(NotScaled, match="acme-nano: ") as refused:
        await target.scale([decided("nano", 2)], {})

    assert said in str(refused.value)
    assert [] == api.patches


async def test_an_api_that_hangs_is_left_for_all_pools_at_once(api: Api) -> None:
    api.silent = asyncio.Event()
    names = {f"p{n}": f"acme-p{n}" for n in range(20)}
    target = Deployments(Cluster(api.url, "agents"), names, 45.0, patience=0.5)

    async with asyncio.timeout(8):  # one after the other would take 10 s
        with pytest.raises(NotScaled) as refused:
            await target.scale([decided(name, 2) for name in names], {})
    api.silent.set()

    assert 20 == str(refused.value).count("has not answered within 0.5 s")


@pytest.mark.parametrize(
    "cluster",
    [
        Cluster("http://[", "agents"),
        Cluster("http://127.0.0.1:9", "agents", token=Path("/nowhere/token")),
        Cluster("https://127.0.0.1:9", "agents", authority=Path("/nowhere/ca.crt")),
    ],
)
async def test_a_cluster_that_cannot_even_be_asked_is_told(cluster: Cluster) -> None:
    target = Deployments(cluster, {"nano": "n"}, 45.0)

    with pytest.raises(NotScaled, match=r"\w"):
        await target.scale([decided("nano", 2)], {})


async def test_a_refusal_is_shown_and_the_lead_is_kept(
    running: Start, api: Api
) -> None:
    """In the health page, the metric, and where `tierpool status` reads it."""
    fleet = await running(REVIEW, base=EIGHT)
    target = Deployments(Cluster(api.url, "agents"), {"nano": "acme-standard"}, 45.0)
    one = scaler(fleet, target, Wanting(24))

    await one.step()
    await one.step()
    async with serve_autoscaler(one, Listen(port=0)) as url:
        page = await fetched(f"{url}/metrics")

    told = "acme-standard: the API answered 403: deployments.apps/scale is forbidden"
    assert (True, told) == (one.leads, one.trouble)
    assert told == (await state_of(fleet)).trouble
    assert f'tierpool_autoscaler_trouble{{fleet="{fleet.fleet.name}"}} 1.0' in page
    assert {"acme-nano": 1, "acme-standard": 1} == api.replicas
