"""What the manifests say to KEDA, whose trigger fields no schema knows."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

import kubernetes_validate
import pytest
from tests.unit.manifests.cluster import Object, of_kind, resolved
from tests.unit.manifests.fleets import MANY, WIDE, Make

from tierpool.config import load_fleet

# Source: KEDA's documentation of 2.20; required ones first.
_TRIGGERS = {
    "prometheus": (
        {"serverAddress", "query", "threshold"},
        {"activationThreshold", "authModes", "customHeaders", "ignoreNullValues"}
        | {"namespace", "queryParameters", "timeout", "unsafeSsl"},
    ),
    "temporal": (
        {"endpoint", "taskQueue"},
        {"activationTargetQueueSize", "endpointFromEnv", "minConnectTimeout"}
        | {"namespace", "queueTypes", "targetQueueSize", "tlsServerName", "unsafeSsl"}
        | {"workerDeploymentBuildId", "workerDeploymentName"},
    ),
}
_SPEC = {
    "advanced", "cooldownPeriod", "fallback", "idleReplicaCount",
    "initialCooldownPeriod", "maxReplicaCount", "minReplicaCount", "pollingInterval",
    "scaleTargetRef", "triggers",
}  # fmt: skip
_ADVANCED = {
    "horizontalPodAutoscalerConfig": {"behavior", "name"},
    "scalingModifiers": {"activationTarget", "formula", "metricType", "target"},
}
_TRIGGER = {"authenticationRef", "metadata", "metricType", "name", "type"}


def faults(spec: Object) -> list[str]:
    """Return what KEDA would not take, or would pass over."""
    found = [f"unknown field {key}" for key in sorted(set(spec) - _SPEC)]
    for part, values in spec.get("advanced", {}).items():
        if part not in _ADVANCED:
            found.append(f"unknown field advanced.{part}")
            continue
        found += [f"unknown field {k}" for k in sorted(set(values) - _ADVANCED[part])]
    names = [trigger.get("name", "") for trigger in spec["triggers"]]
    for trigger in spec["triggers"]:
        found += [f"unknown field {k}" for k in sorted(set(trigger) - _TRIGGER)]
        found += _of_metadata(trigger)
    modifiers = spec.get("advanced", {}).get("scalingModifiers")
    if modifiers is not None:
        terms = re.findall(r"[A-Za-z_]\w*", modifiers["formula"])
        found += [f"no trigger is named {t}" for t in terms if t not in names]
        found += [f"{n} is in no formula" for n in names if n not in terms]
        if not isinstance(modifiers["target"], str):
            found.append("target is no text")
    for key in ("minReplicaCount", "maxReplicaCount", "pollingInterval"):
        if type(spec.get(key, 0)) is not int:
            found.append(f"{key} is no whole number")
    return found


def _of_metadata(trigger: Object) -> list[str]:
    required, optional = _TRIGGERS[trigger["type"]]
    metadata = trigger["metadata"]
    found = [f"unknown field {k}" for k in sorted(set(metadata) - required - optional)]
    found += [f"{key} is missing" for key in sorted(required - set(metadata))]
    return found + [
        f"{k} is no text" for k, v in metadata.items() if type(v) is not str
    ]


def _specs(files: Mapping[str, str], overlay: str) -> dict[str, Object]:
    found = of_kind(resolved(files, f"overlays/{overlay}"), "ScaledObject")
    assert all(one["apiVersion"] == "keda.sh/v1alpha1" for one in found.values())
    return {name: one["spec"] for name, one in found.items()}


@pytest.mark.parametrize("overlay", ["keda", "keda-temporal"])
def test_keda_knows_every_field(files: Mapping[str, str], overlay: str) -> None:
    """Triggers have known fields only, all of them text; formulas name triggers."""
    specs = _specs(files, overlay)

    assert {"acme-fast-1": [], "acme-on": []} == {
        n: faults(s) for n, s in specs.items()
    }


@pytest.mark.parametrize("overlay", ["keda", "keda-temporal"])
def test_keda_knows_every_field_of_a_large_fleet(make: Make, overlay: str) -> None:
    """32 pools with a fallback each."""
    specs = _specs(make(MANY).files, overlay)

    assert {f"fleet-9-lives-tier-{n}": [] for n in range(32)} == {
        n: faults(s) for n, s in specs.items()
    }


def _at(path: str, value: Any, *, new: str | None = None) -> Callable[[Object], None]:
    def change(spec: Object) -> None:
        place: Any = spec
        *parents, last = path.split(".")
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        if new is not None:
            place[new] = place.pop(last)
        else:
            place[last] = value

    return change


_FIRST = "triggers.0.metadata"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_at("pollingInterval", 0, new="pollingIntervall"), "unknown field pollingIntervall"),
        (_at(f"{_FIRST}.targetQueueSize", 0, new="targetQueueSiz"), "unknown field targetQueueSiz"),
        (_at(f"{_FIRST}.targetQueueSize", 100), "targetQueueSize is no text"),
        (_at(f"{_FIRST}.buildId", "x"), "unknown field buildId"),
        (_at(f"{_FIRST}.taskQueue", 0, new="queue"), "taskQueue is missing"),
        (_at("triggers.0.name", "other"), "no trigger is named backlog"),
        (_at("triggers.0.name", "other"), "other is in no formula"),
        (_at("triggers.2.metadata.ignoreNullValues", False), "ignoreNullValues is no text"),
        (_at("triggers.0.metrictype", "x"), "unknown field metrictype"),
        (_at("advanced.scalingModifiers.target", 70), "target is no text"),
        (_at("advanced.scalingModifier", {}), "unknown field advanced.scalingModifier"),
        (_at("minReplicaCount", "1"), "minReplicaCount is no whole number"),
    ],
)  # fmt: skip
def test_slips_are_found(
    files: Mapping[str, str], change: Callable[[Object], None], fault: str
) -> None:
    """Each kind of slip is noticed."""
    spec = copy.deepcopy(_specs(files, "keda-temporal")["acme-fast-1"])
    change(spec)

    assert fault in faults(spec)


@pytest.mark.parametrize("overlay", ["keda", "keda-temporal"])
def test_behaviour_is_one_that_kubernetes_takes(
    files: Mapping[str, str], overlay: str
) -> None:
    """KEDA hands the behaviour to an autoscaler of Kubernetes as it stands."""
    for name, spec in _specs(files, overlay).items():
        config = spec["advanced"]["horizontalPodAutoscalerConfig"]
        scaler = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": name},
            "spec": {
                "maxReplicas": spec["maxReplicaCount"],
                "scaleTargetRef": {"kind": "Deployment", "name": name},
                "behavior": config["behavior"],
            },
        }
        kubernetes_validate.validate(scaler, "1.34", strict=True)
        assert 600 == config["behavior"]["scaleDown"]["stabilizationWindowSeconds"]


@pytest.mark.parametrize("overlay", ["keda", "keda-temporal"])
def test_no_pool_is_scaled_to_zero(files: Mapping[str, str], overlay: str) -> None:
    """Bounds are those of agents.yaml, and one pod is the least."""
    bounds = {
        name: (spec["minReplicaCount"], spec["maxReplicaCount"])
        for name, spec in _specs(files, overlay).items()
    }

    assert {"acme-fast-1": (2, 12), "acme-on": (1, 4)} == bounds


def test_keda_follows_the_desired_instances(files: Mapping[str, str]) -> None:
    """One value, whatever the constraint; without a value nothing changes."""
    (trigger,) = _specs(files, "keda")["acme-fast-1"]["triggers"]

    assert {
        "type": "prometheus",
        "metadata": {
            "serverAddress": "http://p:9090",
            "query": 'max(tierpool_desired_instances{fleet="acme",pool="Fast_1"})',
            "threshold": "100",
            "ignoreNullValues": "false",
        },
    } == trigger


def test_keda_without_an_autoscaler_adds_up_backlogs_and_calls(
    make: Make, files: Mapping[str, str], folder: Any
) -> None:
    """All queues of the tier and the calls under way, over 0.7 of one pod's instances."""
    make(WIDE)
    queues = load_fleet(folder / "agents.yaml").queues["Fast_1"]
    spec = _specs(files, "keda-temporal")["acme-fast-1"]
    *backlogs, used = spec["triggers"]

    assert list(queues) == [one["metadata"]["taskQueue"] for one in backlogs]
    assert {"activity"} == {one["metadata"]["queueTypes"] for one in backlogs}
    assert {"t:7233"} == {one["metadata"]["endpoint"] for one in backlogs}
    query = 'sum(tierpool_pool_instances{fleet="acme",pool="Fast_1",state=~"busy|draining"})'
    assert query == used["metadata"]["query"]
    modifiers = spec["advanced"]["scalingModifiers"]
    assert "backlog + backlog1 + used" == modifiers["formula"]
    assert ("70", "AverageValue") == (modifiers["target"], modifiers["metricType"])


def test_keda_without_an_autoscaler_starts_none(files: Mapping[str, str]) -> None:
    """That overlay removes it, the other keeps it."""
    pods = {
        overlay: of_kind(resolved(files, f"overlays/{overlay}"), "Deployment")
        for overlay in ("keda", "keda-temporal")
    }

    assert "acme-autoscaler" in pods["keda"]
    assert "acme-autoscaler" not in pods["keda-temporal"]
