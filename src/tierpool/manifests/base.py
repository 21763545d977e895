"""The kustomize base: everything but what decides on the number of pods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tierpool.manifests.names import object_name
from tierpool.manifests.parts import Part
from tierpool.manifests.pods import Cluster, deployment, disruption_budget
from tierpool.manifests.texts import yaml_text

__all__ = ["LOCAL_BASE_URL", "base_files", "kustomization"]

LOCAL_BASE_URL = "TIERPOOL_LOCAL_BASE_URL"
"""Variable with the address of models named `local:…`."""

_COMMENTS: Mapping[str, str] = {
    "control": "Keeps the ledger of the fleet's limits; one is enough, two are safe.",
    "flows": "Moves work items; makes no calls of models.",
    "tools": "Runs command and python roles: their programs belong into the image.",
    "autoscaler": "Serves tierpool_desired_instances; the overlays hpa and keda scale by it.",
    "pool": "Makes the agent calls of one tier; an overlay decides how many pods.",
}
_KEYS = "Needs the Secret {prefix}-keys with {names}; docs/kubernetes.md says how."


def base_files(
    cluster: Cluster, parts: Sequence[Part], *, local: bool
) -> dict[str, str]:
    """Return the files of the base by path.

    Args:
        cluster: What all objects have in common.
        parts: The Deployments.
        local: Whether a model is served at the cluster's own address.
    """
    files = {f"fleet/{file.key}": file.text for file in cluster.files}
    resources = []
    if cluster.settings.namespace is not None:
        resources.append("namespace.yaml")
        files["namespace.yaml"] = yaml_text([_namespace(cluster.settings.namespace)])
    resources.append("common.yaml")
    files["common.yaml"] = yaml_text(_common(cluster))
    for part in parts:
        prefix = "pool-" if part.kind == "pool" else ""
        name = f"{prefix}{object_name(part.name)}.yaml"
        resources.append(name)
        documents = [deployment(cluster, part)]
        if part.kind != "autoscaler":
            documents.append(disruption_budget(cluster, part))
        files[name] = yaml_text(documents, _comment(cluster, part))
    files["kustomization.yaml"] = yaml_text(
        [
            kustomization(
                cluster,
                resources,
                configMapGenerator=[_fleet(cluster), _connection(cluster, local=local)],
            )
        ],
        "The names of the config maps end with a hash: a change starts new pods.",
    )
    return files


def kustomization(
    cluster: Cluster,
    resources: Sequence[str],
    *,
    namespace: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return a kustomization in the chosen namespace, else in this one, if any."""
    found: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
    }
    namespace = cluster.settings.namespace or namespace
    if namespace is not None:
        found["namespace"] = namespace
    return {**found, "resources": list(resources), **more}


def _comment(cluster: Cluster, part: Part) -> str:
    lines = [_COMMENTS[part.kind]]
    if part.secrets:
        names = ", ".join(part.secrets)
        lines.append(_KEYS.format(prefix=cluster.prefix, names=names))
    return "\n".join(lines)


def _fleet(cluster: Cluster) -> dict[str, Any]:
    files = [f"fleet/{file.key}" for file in cluster.files]
    return {"name": f"{cluster.prefix}-fleet", "files": files}


def _connection(cluster: Cluster, *, local: bool) -> dict[str, Any]:
    settings = cluster.settings
    values = {
        "TEMPORAL_ADDRESS": settings.temporal_address,
        "TEMPORAL_NAMESPACE": settings.temporal_namespace,
    }
    if local:
        values[LOCAL_BASE_URL] = settings.local_model_url
    return {
        "name": f"{cluster.prefix}-connection",
        "literals": [f"{name}={value}" for name, value in values.items()],
    }


def _namespace(name: str) -> dict[str, Any]:
    # the strictest standard: our pods keep to it
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels},
    }


def _common(cluster: Cluster) -> list[dict[str, Any]]:
    everyone = cluster.labels()
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": cluster.metadata(cluster.prefix),
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": cluster.metadata(f"{cluster.prefix}-metrics"),
            "spec": {
                # one address for each pod, also for those that drain
                "clusterIP": "None",
                "publishNotReadyAddresses": True,
                "selector": everyone,
                "ports": [{"name": "http", "port": 8080, "targetPort": "http"}],
            },
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": cluster.metadata(cluster.prefix),
            "spec": {
                "podSelector": {"matchLabels": everyone},
                "policyTypes": ["Ingress"],
                "ingress": [{"ports": [{"protocol": "TCP", "port": "http"}]}],
            },
        },
    ]
