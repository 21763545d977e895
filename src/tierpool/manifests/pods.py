"""Deployments and their pods: volumes, probes, what they may do and take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tierpool.manifests.files import FLEET_FOLDER, STATE_FOLDER, FleetFile
from tierpool.manifests.names import fleet_name, object_name
from tierpool.manifests.parts import GRACE_SECONDS, Part
from tierpool.manifests.settings import Settings

__all__ = ["Cluster", "deployment", "disruption_budget"]

_PORT = 8080
_USER = 10001
"""Of the image: the Dockerfile's user."""
_LAST_WORDS_SECONDS = 30
"""A worker ends itself 15 s after its grace; the rest is for its exit."""
_LEAST_MEMORY_MI = 512
_IDLE_MEMORY_MI = 256
"""An idle worker took 100 to 160 MB, one with 998 calls in flight 218 MB."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What all objects of a fleet have in common."""

    fleet: str
    settings: Settings
    files: Sequence[FleetFile]

    @property
    def prefix(self) -> str:
        """First part of all names."""
        return fleet_name(self.fleet)

    def named(self, what: str) -> str:
        """Name an object that belongs to a part of the fleet."""
        return f"{self.prefix}-{object_name(what)}"

    def labels(self, part: str | None = None) -> dict[str, str]:
        """Return labels that select the fleet's pods, or those of one part."""
        labels = {
            "app.kubernetes.io/name": "tierpool",
            "app.kubernetes.io/instance": self.prefix,
        }
        if part is not None:
            labels["app.kubernetes.io/component"] = object_name(part)
        return labels

    def metadata(self, name: str, part: str | None = None) -> dict[str, Any]:
        """Return name and labels of an object."""
        return {"name": name, "labels": self.labels(part)}


def deployment(cluster: Cluster, part: Part) -> dict[str, Any]:
    """Return the Deployment of a part."""
    selector = cluster.labels(part.name)
    spec: dict[str, Any] = {
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": selector},
        # two of a kind are safe, and nothing waits for a pod that drains
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"},
        },
        "template": {
            "metadata": {
                "labels": selector,
                "annotations": {
                    "prometheus.io/scrape": "true",
                    "prometheus.io/port": str(_PORT),
                    "prometheus.io/path": "/metrics",
                },
            },
            "spec": _pod(cluster, part),
        },
    }
    if part.replicas is not None:
        spec = {"replicas": part.replicas, **spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": cluster.metadata(cluster.named(part.name), part.name),
        "spec": spec,
    }


def disruption_budget(cluster: Cluster, part: Part) -> dict[str, Any]:
    """Let the cluster move one pod of a part at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": cluster.metadata(cluster.named(part.name), part.name),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": cluster.labels(part.name)},
        },
    }


def _pod(cluster: Cluster, part: Part) -> dict[str, Any]:
    seconds = _LAST_WORDS_SECONDS
    if part.kind != "autoscaler":
        seconds += GRACE_SECONDS
    return {
        "serviceAccountName": cluster.prefix,
        "automountServiceAccountToken": False,
        # variables of the cluster's Services could read as TEMPORAL_…
        "enableServiceLinks": False,
        # the first process then is one that reaps, and SIGTERM always ends ours
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(cluster, part)],
        "volumes": _volumes(cluster, part),
    }


def _container(cluster: Cluster, part: Part) -> dict[str, Any]:
    return {
        "name": "tierpool",
        "image": cluster.settings.image,
        "args": list(part.args),
        "envFrom": [
            {"configMapRef": {"name": f"{cluster.prefix}-connection"}},
            # TEMPORAL_API_KEY and the like, for a server that asks who you are
            {"secretRef": {"name": f"{cluster.prefix}-temporal", "optional": True}},
        ],
        "env": [{"name": "HOME", "value": "/tmp"}, *_secrets(cluster, part)],
        "ports": [{"name": "http", "containerPort": _PORT}],
        "startupProbe": _probe("/health", periodSeconds=2, failureThreshold=60),
        "livenessProbe": _probe("/health", periodSeconds=10, failureThreshold=6),
        "readinessProbe": _probe("/ready", periodSeconds=5, failureThreshold=2),
        "resources": {
            "requests": {"cpu": "250m", "memory": "256Mi"},
            # no limit of CPU: a throttled worker is late with its heartbeats
            "limits": {"memory": f"{_memory_mi(part)}Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _mounts(part),
    }


def _memory_mi(part: Part) -> int:
    """Bound the memory: half a MiB for a call and its texts, more for programs."""
    calls = -(-part.slots // 256) * 128
    programs = _LEAST_MEMORY_MI if part.kind == "tools" else 0
    return max(_LEAST_MEMORY_MI, _IDLE_MEMORY_MI + calls) + programs


def _secrets(cluster: Cluster, part: Part) -> list[dict[str, Any]]:
    def of_secret(name: str, more: Mapping[str, Any]) -> dict[str, Any]:
        key = {"name": f"{cluster.prefix}-keys", "key": name, **more}
        return {"name": name, "valueFrom": {"secretKeyRef": key}}

    needed = [of_secret(name, {}) for name in part.secrets]
    return needed + [of_secret(name, {"optional": True}) for name in part.optional]


def _probe(path: str, **more: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 5, **more}


def _mounts(part: Part) -> list[dict[str, Any]]:
    """Mount the fleet read-only, and in it, writable, the folder of the journal.

    The kubelet makes the mount points of volumes within a ConfigMap. What a
    killed container leaves in the journal, its successor in the pod tells of.
    """
    found: list[dict[str, Any]] = [
        {"name": "fleet", "mountPath": FLEET_FOLDER, "readOnly": True},
        {"name": "state", "mountPath": STATE_FOLDER},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if part.workdir is not None:
        found.append({"name": "work", "mountPath": part.workdir})
    return found


def _volumes(cluster: Cluster, part: Part) -> list[dict[str, Any]]:
    items = [{"key": file.key, "path": file.path} for file in cluster.files]
    found: list[dict[str, Any]] = [
        {
            "name": "fleet",
            "configMap": {"name": f"{cluster.prefix}-fleet", "items": items},
        },
        {"name": "state", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if part.workdir is not None:
        found.append({"name": "work", "emptyDir": {}})
    return found
