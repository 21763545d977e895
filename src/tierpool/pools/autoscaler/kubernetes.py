"""Scales Deployments of a Kubernetes cluster through their scale subresource."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2

from tierpool.contracts.scaling import PoolDecision
from tierpool.errors import UsageError
from tierpool.pools.autoscaler.acting import NotScaled, Workers
from tierpool.pools.autoscaler.limiting import Reach

__all__ = ["Cluster", "Deployments"]

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SECONDS = 10.0
_MERGE = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Cluster:
    """How to reach a cluster's API."""

    url: str
    namespace: str
    token: Path | None = None
    """Read anew for each request: the cluster replaces it every hour."""
    authority: Path | None = None
    """Certificate of the authority that signed the API's own."""

    @staticmethod
    def around() -> Cluster:
        """Return the cluster that this process runs in.

        Raises:
            UsageError: if it runs in none.
        """
        host, port = (
            os.environ.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT")
        )
        if not host:
            raise UsageError(
                "this process runs in no Kubernetes cluster (KUBERNETES_SERVICE_HOST "
                "is not set): name the API with --kubernetes-api and --namespace"
            )
        try:
            namespace = (_ACCOUNT / "namespace").read_text().strip()
        except OSError as error:
            raise UsageError(
                f"no service account is mounted at {_ACCOUNT}: {error.strerror}"
            ) from error
        host = f"[{host}]" if ":" in host else host
        return Cluster(
            f"https://{host}:{port or 443}",
            namespace,
            _ACCOUNT / "token",
            _ACCOUNT / "ca.crt",
        )


class Deployments:
    """One Deployment for each pool; its pods are the pool's workers."""

    name = "kubernetes"

    def __init__(
        self,
        cluster: Cluster,
        names: Mapping[str, str],
        lead_seconds: float,
        patience: float = _SECONDS,
    ) -> None:
        """Take the cluster, and the name of each pool's Deployment.

        Args:
            cluster: Where they are.
            names: By pool.
            lead_seconds: Until a new pod takes calls.
            patience: Seconds that the API may take for one Deployment.
        """
        self._cluster, self._names, self._patience = cluster, names, patience
        self.reach = Reach(lead_seconds, whole_workers=True)

    def running(self) -> AbstractAsyncContextManager[object]:
        """See base class."""
        return nullcontext()

    async def scale(self, decisions: Sequence[PoolDecision], workers: Workers) -> None:
        """See base class; one that refuses or hangs does not hold up the others."""
        trust = self._cluster.authority
        try:
            verify = ssl.create_default_context(cafile=str(trust)) if trust else True
            http = httpx2.AsyncClient(
                base_url=self._cluster.url, timeout=None, verify=verify,
                trust_env=False,
            )  # fmt: skip
        except (OSError, httpx2.InvalidURL) as error:
            raise NotScaled(f"{self._cluster.url} {trust or ''}: {error}") from error
        async with http:
            refusals = await asyncio.gather(
                *(self._try(http, self._names[o.pool], o.workers) for o in decisions)
            )
        refused = [refusal for refusal in refusals if refusal]
        if refused:
            raise NotScaled("; ".join(refused))

    async def _try(self, http: httpx2.AsyncClient, name: str, replicas: int) -> str:
        """Scale one Deployment; return why it was not done, or nothing."""
        try:
            async with asyncio.timeout(self._patience):
                await self._scale(http, name, replicas)
        except TimeoutError:
            where, seconds = self._cluster.url, self._patience
            return f"{name}: the API at {where} has not answered within {seconds:g} s"
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            return f"{name}: {str(error) or type(error).__name__}"
        return ""

    async def _scale(self, http: httpx2.AsyncClient, name: str, replicas: int) -> None:
        space = quote(self._cluster.namespace, safe="")
        path = (
            f"/apis/apps/v1/namespaces/{space}/deployments/{quote(name, safe='')}/scale"
        )
        found = await http.get(path, headers=self._headers())
        if _replicas(_read(found)) == replicas:
            return
        changed = await http.patch(
            path,
            json={"spec": {"replicas": replicas}},
            headers={**self._headers(), "Content-Type": _MERGE},
        )
        if _replicas(_read(changed)) != replicas:
            raise ValueError(f"the API took {replicas} replicas, and has others")

    def _headers(self) -> dict[str, str]:
        token = self._cluster.token
        if token is None:
            return {}
        return {"Authorization": f"Bearer {token.read_text().strip()}"}


def _read(answer: httpx2.Response) -> dict[str, Any]:
    """Return the document of an answer; a refusal in the API's own words."""
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ValueError(  # noqa: TRY004 - a value that came from elsewhere
            f"the API answered {answer.status_code} and no JSON object"
        )
    if not answer.is_success:
        words = str(document.get("message", ""))[:300]
        raise ValueError(f"the API answered {answer.status_code}: {words}")
    return document


def _replicas(document: Mapping[str, Any]) -> int:
    """Return what a Scale asks for; none is written for 0."""
    spec = document.get("spec")
    replicas = spec.get("replicas", 0) if isinstance(spec, dict) else None
    if not isinstance(replicas, int):
        raise ValueError(  # noqa: TRY004 - as above
            "the API answered with something that is no Scale: is it a cluster's API?"
        )
    return replicas
