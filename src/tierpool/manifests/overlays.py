"""Overlays: who decides on the number of pods of each tier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tierpool import telemetry
from tierpool.fleet import LoadedFleet
from tierpool.manifests.base import kustomization
from tierpool.manifests.parts import AUTOSCALER, autoscale_args
from tierpool.manifests.pods import Cluster
from tierpool.manifests.texts import yaml_text

__all__ = ["overlay_files"]

_TARGET_UTILISATION = 0.7
_BASE = "../../base"
_DEFAULT_NAMESPACE = "default"
"""Of the overlay `scale` without --namespace: who gets rights is named with his own."""
_HPA = (
    "Needs an adapter that serves the metric as external.metrics.k8s.io, such as\n"
    "prometheus-adapter with the rule of docs/kubernetes.md. The target is the\n"
    "instances of one pod."
)
_KEDA = (
    "KEDA 2.20 or later. The threshold is the instances of one pod. Without a value\n"
    "nothing changes (ignoreNullValues: false)."
)
_KEDA_TEMPORAL = (
    "KEDA 2.20 or later; for fleets without `tierpool autoscale`. Calls that wait and\n"
    "calls under way, over 0.7 of the instances of one pod. It knows nothing of rate\n"
    "limits and money: a pool that these hold back is scaled up in vain."
)
_SCALE = (
    "`tierpool autoscale` sets the number of pods itself, through the API of the\n"
    "cluster. Neither KEDA nor an adapter is needed."
)


def overlay_files(fleet: LoadedFleet, cluster: Cluster) -> dict[str, str]:
    """Return the files of all overlays by path; paused pools are not scaled."""
    tiers = [n for n, t in fleet.fleet.tiers.items() if t.pool.max_instances]
    kinds = {
        "hpa": ([_hpa(fleet, cluster, name) for name in tiers], _HPA),
        "keda": ([_keda(fleet, cluster, name) for name in tiers], _KEDA),
        "keda-temporal": (
            [_keda_temporal(fleet, cluster, name) for name in tiers],
            _KEDA_TEMPORAL,
        ),
    }
    files = {}
    for name, (documents, comment) in kinds.items():
        patches: dict[str, Any] = {}
        if name == "keda-temporal":
            patches["patches"] = [{"path": "autoscaler.yaml"}]
            files[f"{name}/autoscaler.yaml"] = yaml_text([_removed(cluster)])
        resources = [_BASE, *(["pools.yaml"] if documents else [])]
        files[f"{name}/kustomization.yaml"] = yaml_text(
            [kustomization(cluster, resources, **patches)]
        )
        if documents:
            files[f"{name}/pools.yaml"] = yaml_text(documents, comment)
    return files | _scale(cluster, list(fleet.fleet.tiers))


def _hpa(fleet: LoadedFleet, cluster: Cluster, tier: str) -> dict[str, Any]:
    pool = fleet.fleet.tiers[tier].pool
    metric = {
        "name": telemetry.METRIC_DESIRED,
        "selector": {"matchLabels": {"fleet": fleet.name, "pool": tier}},
    }
    target = {"type": "AverageValue", "averageValue": str(pool.max_instances)}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": cluster.metadata(cluster.named(tier), tier),
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": cluster.named(tier),
            },
            "minReplicas": pool.scaling.min_workers,
            "maxReplicas": pool.scaling.max_workers,
            "behavior": _behaviour(),
            "metrics": [
                {"type": "External", "external": {"metric": metric, "target": target}}
            ],
        },
    }


def _behaviour() -> dict[str, Any]:
    """Scale up at once, and down by one pod a minute: a pod drains for minutes."""
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "selectPolicy": "Max",
            "policies": [
                {"type": "Percent", "value": 100, "periodSeconds": 15},
                {"type": "Pods", "value": 4, "periodSeconds": 15},
            ],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": 600,
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
        },
    }


def _scaled_object(
    fleet: LoadedFleet,
    cluster: Cluster,
    tier: str,
    triggers: Sequence[dict[str, Any]],
    **advanced: Any,
) -> dict[str, Any]:
    scaling = fleet.fleet.tiers[tier].pool.scaling
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": cluster.metadata(cluster.named(tier), tier),
        "spec": {
            "scaleTargetRef": {"name": cluster.named(tier)},
            "pollingInterval": 10,
            "minReplicaCount": scaling.min_workers,
            "maxReplicaCount": scaling.max_workers,
            "advanced": {
                "horizontalPodAutoscalerConfig": {"behavior": _behaviour()},
                **advanced,
            },
            "triggers": list(triggers),
        },
    }


def _prometheus(cluster: Cluster, query: str, threshold: str) -> dict[str, Any]:
    return {
        "type": "prometheus",
        "metadata": {
            "serverAddress": cluster.settings.prometheus_url,
            "query": query,
            "threshold": threshold,
            # no value is no reason to scale down
            "ignoreNullValues": "false",
        },
    }


def _keda(fleet: LoadedFleet, cluster: Cluster, tier: str) -> dict[str, Any]:
    labels = f'fleet="{fleet.name}",pool="{tier}"'
    # the constraint is a label: one value at a time, and two while it changes
    query = f"max({telemetry.METRIC_DESIRED}{{{labels}}})"
    slots = str(fleet.fleet.tiers[tier].pool.max_instances)
    return _scaled_object(fleet, cluster, tier, [_prometheus(cluster, query, slots)])


def _keda_temporal(fleet: LoadedFleet, cluster: Cluster, tier: str) -> dict[str, Any]:
    slots = fleet.fleet.tiers[tier].pool.max_instances
    triggers = []
    for number, queue in enumerate(fleet.queues[tier]):
        metadata = {
            "endpoint": cluster.settings.temporal_address,
            "namespace": cluster.settings.temporal_namespace,
            "taskQueue": queue,
            "queueTypes": "activity",
            "targetQueueSize": str(slots),
        }
        name = f"backlog{number or ''}"
        triggers.append({"type": "temporal", "name": name, "metadata": metadata})
    target = f"{_TARGET_UTILISATION * slots:.4g}"
    labels = f'fleet="{fleet.name}",pool="{tier}",state=~"busy|draining"'
    query = f"sum({telemetry.METRIC_POOL_INSTANCES}{{{labels}}})"
    used = {"name": "used", **_prometheus(cluster, query, target)}
    terms = [str(trigger["name"]) for trigger in triggers] + ["used"]
    modifiers = {
        "formula": " + ".join(terms),
        "target": target,
        "metricType": "AverageValue",
    }
    return _scaled_object(
        fleet, cluster, tier, [*triggers, used], scalingModifiers=modifiers
    )


def _removed(cluster: Cluster) -> dict[str, Any]:
    return {
        "$patch": "delete",
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": cluster.named(AUTOSCALER)},
    }


def _scale(cluster: Cluster, tiers: Sequence[str]) -> dict[str, str]:
    """Give the autoscaler, and nobody else, the right to scale these pools."""
    top = kustomization(
        cluster,
        [_BASE, "rights.yaml"],
        namespace=_DEFAULT_NAMESPACE,
        patches=[{"path": "autoscaler.yaml"}],
    )
    return {
        "scale/kustomization.yaml": yaml_text([top]),
        "scale/rights.yaml": yaml_text(_rights(cluster, tiers), _SCALE),
        "scale/autoscaler.yaml": yaml_text([_acting(cluster)]),
    }


def _rights(cluster: Cluster, tiers: Sequence[str]) -> list[dict[str, Any]]:
    name = cluster.named(AUTOSCALER)
    namespace = cluster.settings.namespace or _DEFAULT_NAMESPACE
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": cluster.metadata(name, AUTOSCALER),
        "rules": [
            {
                "apiGroups": ["apps"],
                "resources": ["deployments/scale"],
                "resourceNames": [cluster.named(tier) for tier in tiers],
                "verbs": ["get", "patch"],
            }
        ],
    }
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": cluster.metadata(name, AUTOSCALER),
        "automountServiceAccountToken": False,
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": cluster.metadata(name, AUTOSCALER),
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role",
            "name": name,
        },
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
    return [account, role, binding]


def _acting(cluster: Cluster) -> dict[str, Any]:
    pools = f"{cluster.prefix}-{{pool}}"
    container = {
        "name": "tierpool",
        "args": list(autoscale_args("--act", "kubernetes", "--deployment", pools)),
    }
    spec = {
        "serviceAccountName": cluster.named(AUTOSCALER),
        "automountServiceAccountToken": True,
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": cluster.named(AUTOSCALER)},
        "spec": {"template": {"spec": spec}},
    }
