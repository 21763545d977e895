"""What the manifests say, checked as a cluster would check it."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import kubernetes_validate
import pytest
from ruamel.yaml import YAML
from temporalio.client import Client
from tests.unit.manifests.cluster import (
    Dangling,
    Object,
    container,
    dangling,
    documents,
    is_writable,
    of_kind,
    pod_view,
    resolved,
)
from tests.unit.manifests.fleets import MANY, SMALL, WIDE, Make

from tierpool import telemetry
from tierpool.activities.providers.local import BASE_URL_ENV
from tierpool.activities.tools import item_folder
from tierpool.cli import parser
from tierpool.cli.autoscale import _deployments
from tierpool.config import load_fleet
from tierpool.leases.books import Books
from tierpool.manifests.base import LOCAL_BASE_URL
from tierpool.pools.endpoint import Listen
from tierpool.worker import Served

VERSIONS = ("1.30", "1.34")
OVERLAYS = ("hpa", "keda", "keda-temporal", "scale")
FOLDERS = ("base", *(f"overlays/{name}" for name in OVERLAYS))
SECRETS = {"acme-keys", "acme-temporal"}
KUBECTL = shutil.which("kubectl")


def _faults(one: Object, version: str) -> str:
    """Return what a strict validator says; nothing if the object is right."""
    try:
        kubernetes_validate.validate(one, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error)
    return ""


def test_objects_fit_the_schemas_of_kubernetes(files: Mapping[str, str]) -> None:
    """Every object of every overlay has known fields only, with values that fit."""
    base = resolved(files, "base")
    more = [o for name in OVERLAYS for o in resolved(files, f"overlays/{name}")]
    ours = [*base, *(one for one in more if one not in base)]

    for one in ours:
        for version in VERSIONS if one["kind"] != "ScaledObject" else ():
            assert _faults(one, version) == "", one["metadata"]["name"]
    kinds = {one["kind"] for one in ours}
    assert {"Deployment", "HorizontalPodAutoscaler", "Role", "ScaledObject"} <= kinds


@pytest.mark.parametrize("place", ["overlays/hpa", "overlays/scale"])
def test_objects_of_a_large_fleet_fit_too(make: Make, place: str) -> None:
    """With a namespace of the cluster's own choice, and 32 pools."""
    objects = resolved(make(MANY).files, place)
    pools = [name for name in of_kind(objects, "Deployment") if "-tier-" in str(name)]

    assert {f"fleet-9-lives-tier-{n}" for n in range(32)} == set(pools)
    assert [] == dangling(objects, {"fleet-9-lives-keys", "fleet-9-lives-temporal"})
    # 32 of a kind differ in names and numbers: the first and the last tell
    ends = {one["kind"]: one for one in reversed(objects)} | {
        f"last {one['kind']}": one for one in objects
    }
    for one in ends.values():
        if one["kind"] != "ScaledObject":
            assert "" == _faults(one, VERSIONS[-1]), one["metadata"]["name"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.template.spec.terminationGracePeriodSecond", 330),
        ("spec.replicas", "two"),
        ("spec.template.spec.containers", [{"image": "x"}]),
    ],
)
def test_validator_finds_slips(
    files: Mapping[str, str], path: str, value: object
) -> None:
    """A misspelt field, a wrong type and a missing field are noticed."""
    broken = _broken(resolved(files, "base"), "Deployment", "acme-flows", path, value)

    assert _faults(of_kind(broken, "Deployment")["acme-flows"], "1.34") != ""


@pytest.mark.parametrize("place", FOLDERS)
def test_references_lead_somewhere(files: Mapping[str, str], place: str) -> None:
    """Files, config maps, keys, accounts, ports, labels and targets are all there."""
    assert dangling(resolved(files, place), SECRETS) == []


_POD = "spec.template.spec"


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "fault"),
    [
        ("Deployment", "acme-fast-1", f"{_POD}.serviceAccountName", "gone", "runs as gone"),
        ("Deployment", "acme-fast-1", f"{_POD}.volumes.0.configMap.name", "gone", "mounts the config map gone"),
        ("Deployment", "acme-fast-1", f"{_POD}.volumes.0.configMap.items", [], "mounts [] of"),
        ("Deployment", "acme-fast-1", f"{_POD}.volumes.1.name", "gone", "mounts ['fleet'"),
        ("Deployment", "acme-fast-1", f"{_POD}.containers.0.envFrom.0.configMapRef.name", "gone", "takes variables of gone"),
        ("Deployment", "acme-fast-1", f"{_POD}.containers.0.env.1.valueFrom.secretKeyRef.name", "gone", "takes OPENAI_API_KEY of gone"),
        ("Deployment", "acme-fast-1", f"{_POD}.containers.0.readinessProbe.httpGet.port", "gone", "is probed at gone"),
        ("Deployment", "acme-fast-1", "spec.selector.matchLabels.x", "y", "does not select its own pods"),
        ("Deployment", "acme-fast-1", "spec.replicas", 1, "whose number is fixed"),
        ("PodDisruptionBudget", "acme-fast-1", "spec.selector.matchLabels.x", "y", "selects 0 Deployments"),
        ("Service", "acme-metrics", "spec.selector.x", "y", "selects 0 Deployments"),
        ("NetworkPolicy", "acme", "spec.podSelector.matchLabels.x", "y", "selects 0 Deployments"),
        ("ScaledObject", "acme-fast-1", "spec.scaleTargetRef.name", "gone", "scales gone"),
    ],
)  # fmt: skip
def test_dangling_references_are_found(
    files: Mapping[str, str], kind: str, name: str, path: str, value: object, fault: str
) -> None:
    """Each kind of dangling reference is noticed."""
    broken = _broken(resolved(files, "overlays/keda"), kind, name, path, value)

    assert [fault] == [fault for one in dangling(broken, SECRETS) if fault in one]


def test_missing_files_and_patches_are_found(files: Mapping[str, str]) -> None:
    """A resource that is not there, and a patch of nothing, are noticed."""
    without = {p: text for p, text in files.items() if p != "base/flows.yaml"}
    other = files["overlays/scale/autoscaler.yaml"].replace("acme-autoscaler", "gone")

    with pytest.raises(Dangling, match=r"base/flows\.yaml"):
        resolved(without, "overlays/hpa")
    with pytest.raises(Dangling, match="gone"):
        resolved({**files, "overlays/scale/autoscaler.yaml": other}, "overlays/scale")


def _broken(
    objects: list[Object], kind: str, name: str, path: str, value: object
) -> list[Object]:
    changed = copy.deepcopy(objects)
    place: Any = of_kind(changed, kind)[name]
    *parents, last = path.split(".")
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[last] = value
    return changed


@pytest.mark.skipif(KUBECTL is None, reason="there is no kubectl on this machine")
@pytest.mark.parametrize("place", FOLDERS)
def test_kustomize_makes_the_same_objects(
    files: Mapping[str, str], place: str, tmp_path: Path
) -> None:
    """The real kustomize reads our files as our own resolver does."""
    for path, text in files.items():
        (tmp_path / "k" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "k" / path).write_text(text)

    done = subprocess.run(
        [str(KUBECTL), "kustomize", str(tmp_path / "k" / place)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    text = re.sub(r"\b(acme-(?:fleet|connection))-[a-z0-9]{10}\b", r"\1", done.stdout)
    assert _sorted(resolved(files, place)) == _sorted(documents(text))


def _sorted(objects: list[Object]) -> list[Object]:
    return sorted(objects, key=lambda o: (o["kind"], o["metadata"]["name"]))


def test_every_reader_of_yaml_reads_the_same(files: Mapping[str, str]) -> None:
    """YAML 1.1, as in Kubernetes' tools, and 1.2 agree; a tier named `on` stays text."""
    for path, text in files.items():
        if not path.startswith("base/fleet/"):
            newer = YAML(typ="safe", pure=True).load_all(text)
            assert [dict(one) for one in newer] == documents(text), path
    args = container(_deployment(files, "acme-on"))["args"]
    assert ["worker", "--pool", "on"] == args[:3]


def _deployment(files: Mapping[str, str], name: str, folder: str = "base") -> Object:
    return of_kind(resolved(files, folder), "Deployment")[name]


def test_every_part_of_the_fleet_has_a_deployment(make: Make) -> None:
    """Tiers, flows, control and the autoscaler have one each, and tools if there are roles."""
    small = of_kind(resolved(make(SMALL).files, "base"), "Deployment")
    wide = of_kind(resolved(make(WIDE).files, "base"), "Deployment")

    common = {"acme-autoscaler", "acme-control", "acme-flows"}
    assert common | {"acme-nano"} == set(small)
    assert common | {"acme-tools", "acme-fast-1", "acme-on", "acme-paused"} == set(wide)


@pytest.mark.parametrize("place", FOLDERS)
def test_command_lines_are_tierpools_own(
    files: Mapping[str, str], place: str, make: Make
) -> None:
    """The real parser takes each container's arguments, and they serve its part."""
    served: dict[str, str] = {}
    for name, one in of_kind(resolved(files, place), "Deployment").items():
        args = parser().parse_args(container(one)["args"])
        if args.name == "worker":
            what = Served(args.flows, args.tools, tuple(args.pool), args.control)
            (served[name],) = what.names
        else:
            served[name] = args.name
        listen = Listen.parse(args.http, required=True)
        ports = [port["containerPort"] for port in container(one)["ports"]]
        assert "0.0.0.0" == listen.host
        assert ports == [listen.port]
        assert "/etc/tierpool/agents.yaml" == args.file

    wanted = {
        "acme-control": "control", "acme-flows": "flows", "acme-tools": "tools",
        "acme-fast-1": "Fast_1", "acme-on": "on", "acme-paused": "paused",
        "acme-autoscaler": "autoscale",
    }  # fmt: skip
    if place == "overlays/keda-temporal":
        del wanted["acme-autoscaler"]
    assert wanted == served


def test_workers_may_drain(files: Mapping[str, str]) -> None:
    """Every worker pod gets 330 s, 30 more than the worker gives its calls."""
    for name, one in of_kind(resolved(files, "base"), "Deployment").items():
        args = parser().parse_args(container(one)["args"])
        if args.name == "worker":
            seconds = one["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
            assert 330 == seconds, name
            assert 300 == args.grace, name
            assert 0 == one["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], name


def test_pods_may_do_as_little_as_possible(files: Mapping[str, str]) -> None:
    """No root, no capability, no writable root, no token; memory is bounded."""
    for name, one in of_kind(resolved(files, "base"), "Deployment").items():
        pod, inside = one["spec"]["template"]["spec"], container(one)
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert 10001 == pod["securityContext"]["runAsUser"], name
        assert {"type": "RuntimeDefault"} == pod["securityContext"]["seccompProfile"]
        assert pod["automountServiceAccountToken"] is False, name
        assert {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        } == inside["securityContext"], name
        assert "memory" in inside["resources"]["limits"], name
        assert {"cpu", "memory"} == set(inside["resources"]["requests"]), name


def test_probes_ask_for_what_workers_answer(files: Mapping[str, str]) -> None:
    """Start and life are asked of /health, readiness of /ready."""
    for one in of_kind(resolved(files, "base"), "Deployment").values():
        paths = {
            probe: container(one)[f"{probe}Probe"]["httpGet"]["path"]
            for probe in ("startup", "liveness", "readiness")
        }
        assert {
            "startup": "/health",
            "liveness": "/health",
            "readiness": "/ready",
        } == paths


def test_keys_go_by_reference_to_who_needs_them(files: Mapping[str, str]) -> None:
    """A pool gets the keys of its models, a program its variables; nobody else any."""
    found = {}
    for name, one in of_kind(resolved(files, "base"), "Deployment").items():
        variables = [v for v in container(one)["env"] if v["name"] != "HOME"]
        assert all({"name", "valueFrom"} == set(v) for v in variables)
        found[name] = {
            v["name"]: v["valueFrom"]["secretKeyRef"].get("optional", False)
            for v in variables
        }

    assert {
        "acme-control": {}, "acme-flows": {}, "acme-autoscaler": {}, "acme-paused": {},
        "acme-tools": {"GITHUB_TOKEN": True},
        "acme-fast-1": {"OPENAI_API_KEY": False, "ANTHROPIC_API_KEY": False},
        "acme-on": {"OTHER_KEY": False, "LINT_KEY": True},
    } == found  # fmt: skip
    assert all("kind: Secret\n" not in text for text in files.values())


def test_no_key_of_the_environment_is_written(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is set where the command runs stays there."""
    for name in ("OPENAI_API_KEY", "OTHER_KEY", "GITHUB_TOKEN", "TEMPORAL_API_KEY"):
        monkeypatch.setenv(name, "sk-secret-value")

    written = make(WIDE).files

    assert [] == [path for path, text in written.items() if "sk-secret" in text]


def test_pods_see_the_fleet_as_it_is_here(
    make: Make, folder: Path, tmp_path: Path
) -> None:
    """Through the links of a config map's volume the same fleet is loaded."""
    objects = resolved(make(WIDE).files, "base")
    fleets = []

    for name, one in of_kind(objects, "Deployment").items():
        root = pod_view(tmp_path / name, objects, one)
        fleets.append(load_fleet(root / "etc/tierpool/agents.yaml"))

    here = load_fleet(folder / "agents.yaml")
    assert [here.snapshot] * 7 == [fleet.snapshot for fleet in fleets]


def test_journals_of_leases_are_written_to_a_volume(make: Make, tmp_path: Path) -> None:
    """A worker finds a folder for its journal which is not the read-only config map."""
    objects = resolved(make(WIDE).files, "base")
    pool = of_kind(objects, "Deployment")["acme-fast-1"]
    root = pod_view(tmp_path / "pod", objects, pool)
    fleet = load_fleet(root / "etc/tierpool/agents.yaml")
    before = sorted(p.name for p in fleet.path.parent.iterdir())
    books = Books(fleet, cast("Client", _connected_to("temporal:7233")))

    lessee = books.begin()

    state = tmp_path / "pod" / "volumes" / "state"
    assert [f"{lessee}.lease"] == [p.name for p in state.rglob("*.lease")]
    assert before == sorted(p.name for p in fleet.path.parent.iterdir())
    assert is_writable(pool, "/etc/tierpool/.tierpool/leases")
    assert not is_writable(pool, "/etc/tierpool/agents.yaml")
    books.close()


def _connected_to(address: str) -> SimpleNamespace:
    """Return the address of a client, which is all that the books ask it for."""
    config = SimpleNamespace(target_host=address)
    service = SimpleNamespace(config=config)
    return SimpleNamespace(service_client=service, namespace="default")


@pytest.mark.parametrize(
    ("workdir", "inside"),
    [
        ("", "/etc/tierpool/.tierpool/work"),
        ("workdir: /var/lib/tierpool\n", "/var/lib/tierpool"),
        ("workdir: work/items\n", "/etc/tierpool/work/items"),
        ("workdir: /tmp/work\n", "/tmp/work"),
    ],
)
def test_programs_find_a_writable_folder(make: Make, workdir: str, inside: str) -> None:
    """Wherever the folder of command roles is, their pods can write to it."""
    text = WIDE.replace("workdir: /var/lib/tierpool\n", workdir)

    pods = of_kind(resolved(make(text).files, "base"), "Deployment")

    folder = str(item_folder(Path(inside), "TASK-1"))
    assert all(is_writable(pods[name], folder) for name in ("acme-tools", "acme-on"))
    if inside.startswith("/var"):
        assert not is_writable(pods["acme-fast-1"], folder)


def test_change_of_a_prompt_reaches_the_pods(make: Make, folder: Path) -> None:
    """The config map is generated, with a hash in its name, and has the new text."""
    before = make(SMALL).files

    (folder / "prompts" / "writer.md").write_text("Write better.\n")
    after = make(SMALL).files

    assert ["base/fleet/prompts.writer.md"] == [
        p for p in after if after[p] != before[p]
    ]
    (top,) = documents(after["base/kustomization.yaml"])
    generated = {one["name"]: one.get("files") for one in top["configMapGenerator"]}
    assert ["fleet/agents.yaml", "fleet/prompts.writer.md"] == generated["acme-fleet"]
    assert "generatorOptions" not in top


def test_connection_is_what_the_command_line_says(make: Make) -> None:
    """Pods get the Temporal server's address, its namespace and the model server's."""
    made = make(
        WIDE,
        temporal_address="t.example:7233",
        temporal_namespace="acme.prod",
        local_model_url="http://llm:8000/v1",
    )
    small = make(SMALL)

    data = of_kind(resolved(made.files, "base"), "ConfigMap")["acme-connection"]["data"]
    without = of_kind(resolved(small.files, "base"), "ConfigMap")["acme-connection"]
    assert BASE_URL_ENV == LOCAL_BASE_URL
    assert {
        "TEMPORAL_ADDRESS": "t.example:7233",
        "TEMPORAL_NAMESPACE": "acme.prod",
        BASE_URL_ENV: "http://llm:8000/v1",
    } == data
    assert BASE_URL_ENV not in without["data"]


def test_hpa_scales_each_pool_by_its_desired_instances(
    files: Mapping[str, str],
) -> None:
    """The target is one pod's instances; bounds are the pool's; a paused one is left."""
    scalers = of_kind(resolved(files, "overlays/hpa"), "HorizontalPodAutoscaler")

    spec = scalers["acme-fast-1"]["spec"]
    assert {"acme-fast-1", "acme-on"} == set(scalers)
    assert (2, 12) == (spec["minReplicas"], spec["maxReplicas"])
    (metric,) = spec["metrics"]
    assert {
        "metric": {
            "name": "tierpool_desired_instances",
            "selector": {"matchLabels": {"fleet": "acme", "pool": "Fast_1"}},
        },
        "target": {"type": "AverageValue", "averageValue": "100"},
    } == metric["external"]
    down = spec["behavior"]["scaleDown"]
    assert 600 == down["stabilizationWindowSeconds"]
    assert [{"type": "Pods", "value": 1, "periodSeconds": 60}] == down["policies"]


def test_metrics_of_overlays_exist(files: Mapping[str, str]) -> None:
    """What HPA and KEDA scale by is exported, under this name."""
    text = "".join(t for p, t in files.items() if p.startswith("overlays/"))

    named = set(re.findall(r"\btierpool_\w+", text))

    assert {telemetry.METRIC_DESIRED, telemetry.METRIC_POOL_INSTANCES} == named
    assert named <= {*telemetry.METRICS, *telemetry.AUTOSCALER_METRICS}


def test_only_the_autoscaler_may_scale_and_only_its_pools(
    files: Mapping[str, str], make: Make, folder: Path
) -> None:
    """In the overlay `scale` it has a token and a role for exactly what it scales."""
    make(WIDE)
    objects = resolved(files, "overlays/scale")
    fleet = load_fleet(folder / "agents.yaml")
    pods = of_kind(objects, "Deployment")
    args = parser().parse_args(container(pods["acme-autoscaler"])["args"])

    tokens = {
        name
        for name, one in pods.items()
        if one["spec"]["template"]["spec"]["automountServiceAccountToken"]
    }
    (rule,) = of_kind(objects, "Role")["acme-autoscaler"]["rules"]
    scaled = _deployments(args, fleet, list(fleet.fleet.tiers))

    assert ("kubernetes", False) == (args.act, args.advise)
    assert {"acme-autoscaler"} == tokens
    assert (["deployments/scale"], ["get", "patch"]) == (
        rule["resources"],
        rule["verbs"],
    )
    assert sorted(scaled.values()) == sorted(rule["resourceNames"])


def test_base_gives_nobody_rights(files: Mapping[str, str]) -> None:
    """Without the overlay `scale` there is no role, and the autoscaler only advises."""
    objects = resolved(files, "base")
    args = parser().parse_args(container(_deployment(files, "acme-autoscaler"))["args"])

    assert {} == of_kind(objects, "Role")
    assert args.advise is True


def test_namespace_is_that_of_the_command_line(make: Make) -> None:
    """With it every object is in it and it is made, else the current one is used."""
    inside = resolved(make(SMALL, namespace="agents").files, "overlays/keda")
    without = resolved(make(SMALL).files, "overlays/keda")

    spaces = {
        o["metadata"].get("namespace") for o in inside if o["kind"] != "Namespace"
    }
    assert {"agents"} == spaces
    assert ["agents"] == list(of_kind(inside, "Namespace"))
    assert {None} == {o["metadata"].get("namespace") for o in without}
    assert {} == of_kind(without, "Namespace")


def test_memory_grows_with_the_instances(make: Make) -> None:
    """A pod of many instances may take more."""
    found = {}
    for slots in (16, 1000, 10_000):
        text = SMALL.replace("max_instances: 16", f"max_instances: {slots}")
        pool = of_kind(resolved(make(text).files, "base"), "Deployment")["acme-nano"]
        found[slots] = container(pool)["resources"]["limits"]["memory"]

    assert {16: "512Mi", 1000: "768Mi", 10_000: "5376Mi"} == found


def test_output_depends_on_the_input_only(make: Make) -> None:
    """The same fleet gives the same bytes."""
    assert list(make(WIDE).files.items()) == list(make(WIDE).files.items())
