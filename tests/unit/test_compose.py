"""The compose file and what it mounts and builds, checked without an engine."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tierpool.cli import parser
from tierpool.devserver.codec_server import ui_origins
from tierpool.devserver.program import DYNAMIC_CONFIG
from tierpool.devserver.state import port_of
from tierpool.telemetry import SEARCH_ATTRIBUTES

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
SCRIPTS = sorted((ROOT / "deploy" / "temporal").glob("*.sh"))
WORKERS = ("flows", "tools", "control", "nano", "standard", "premium")

_VARIABLE = re.compile(r"\$\{(\w+)(?::[-?]([^}]*))?\}")
_PINNED = re.compile(r"[\w./-]+:(?!latest$)v?\d[\w.-]*\d[\w.-]*$")


def read_yaml(path: Path) -> Any:
    """Read a YAML file, anchors and merges resolved."""
    return YAML(typ="safe", pure=True).load(path)


def filled(text: str) -> str:
    """Put the defaults of the variables in."""
    return _VARIABLE.sub(lambda match: match[2] or "", text)


def faults(document: dict[str, Any]) -> list[str]:
    """Return what the compose schema cannot see."""
    services = document["services"]
    found = []
    for name, service in services.items():
        found += [f"{name}: {fault}" for fault in _reference_faults(services, service)]
        found += [f"{name}: {fault}" for fault in _mount_faults(document, service)]
        if not _PINNED.match(filled(service.get("image", ""))):
            found.append(f"{name}: image {service.get('image')} is not pinned")
        found += [
            f"{name}: port {port} is open to the network"
            for port in service.get("ports", [])
            if not port.startswith("127.0.0.1:")
        ]
    return found


def _reference_faults(
    services: dict[str, Any], service: dict[str, Any]
) -> Iterator[str]:
    for other, wanted in service.get("depends_on", {}).items():
        if other not in services:
            yield f"depends on {other}, which there is not"
        elif (
            wanted["condition"] == "service_healthy"
            and "healthcheck" not in services[other]
        ):
            yield f"waits for the health of {other}, which has no health check"
        elif (
            wanted["condition"] == "service_completed_successfully"
            and services[other].get("restart") == "unless-stopped"
        ):
            yield f"waits for the end of {other}, which is always restarted"


def _mount_faults(document: dict[str, Any], service: dict[str, Any]) -> Iterator[str]:
    for volume in service.get("volumes", []):
        source = filled(volume).split(":")[0]
        if source.startswith("."):
            if not (ROOT / source).exists():
                yield f"mounts {source}, which there is not"
        elif source not in document.get("volumes", {}):
            yield f"volume {source} is not declared"
    for network in service.get("networks", []):
        if network not in document.get("networks", {}):
            yield f"network {network} is not declared"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The compose file."""
    document = read_yaml(COMPOSE)
    assert isinstance(document, dict)
    return document


def test_compose_file_fits_the_specification() -> None:
    """Every key and value is one that the Compose Specification knows."""
    command = [sys.executable, "-m", "check_jsonschema"]
    command += ["--builtin-schema", "vendor.compose-spec", str(COMPOSE)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_file_refers_to_what_exists(compose: dict[str, Any]) -> None:
    """Services, volumes, networks and mounted files exist; images are pinned; ports are local."""
    assert faults(compose) == []


def _break(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place = document
        for key in parents:
            place = place[key]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            _break(
                "services.ui.depends_on", {"gone": {"condition": "service_healthy"}}
            ),
            "ui: depends on gone, which there is not",
        ),
        (
            _break(
                "services.flows.depends_on", {"ui": {"condition": "service_healthy"}}
            ),
            "flows: waits for the health of ui, which has no health check",
        ),
        (
            _break("services.temporal-schema.restart", "unless-stopped"),
            "temporal: waits for the end of temporal-schema, which is always restarted",
        ),
        (
            _break("services.ui.volumes", ["data:/data"]),
            "ui: volume data is not declared",
        ),
        (
            _break("services.ui.volumes", ["./gone:/x"]),
            "ui: mounts ./gone, which there is not",
        ),
        (
            _break("services.ui.networks", ["far"]),
            "ui: network far is not declared",
        ),
        (
            _break("services.ui.image", "temporalio/ui:latest"),
            "ui: image temporalio/ui:latest is not pinned",
        ),
        (
            _break("services.ui.image", "temporalio/ui"),
            "ui: image temporalio/ui is not pinned",
        ),
        (
            _break("services.ui.ports", ["8233:8080"]),
            "ui: port 8233:8080 is open to the network",
        ),
    ],
)
def test_faults_are_found(
    compose: dict[str, Any], change: Callable[[dict[str, Any]], None], fault: str
) -> None:
    """Each kind of dangling reference is noticed."""
    broken = copy.deepcopy(compose)
    change(broken)

    assert fault in faults(broken)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid_shell(script: Path) -> None:
    """A POSIX shell can read the scripts that the one-shot services run."""
    done = subprocess.run(
        ["sh", "-n", str(script)], capture_output=True, text=True, check=False
    )

    assert done.stderr == ""
    assert script.read_text().startswith("#!/bin/sh\n")


def test_scripts_are_the_mounted_ones(compose: dict[str, Any]) -> None:
    """Every script is run by a service, under the path that it is mounted on."""
    run = {
        service["entrypoint"][1]: service["volumes"][0]
        for service in compose["services"].values()
        if "entrypoint" in service
    }

    for inside, volume in run.items():
        assert volume.split(":")[1] == inside
    assert sorted(Path(path).name for path in run) == [path.name for path in SCRIPTS]


@pytest.mark.parametrize("name", WORKERS)
def test_worker_commands_parse(compose: dict[str, Any], name: str) -> None:
    """The command line of every worker service is one that tierpool understands."""
    args = parser().parse_args(compose["services"][name]["command"])

    served = {
        "flows": args.flows,
        "tools": args.tools,
        "control": args.control,
        **{tier: tier in args.pool for tier in ("nano", "standard", "premium")},
    }
    assert [name] == [service for service, on in served.items() if on]


def test_autoscaler_is_started_on_demand_and_is_stopped_in_order(
    compose: dict[str, Any],
) -> None:
    """It resizes the workers that run; without its profile their own limits count."""
    service = compose["services"]["autoscaler"]
    args = parser().parse_args(service["command"])

    assert (["autoscale"], "slots", False) == (
        service["profiles"],
        args.act,
        args.advise,
    )
    assert service["init"] is True


def test_every_tier_of_the_example_has_a_service(compose: dict[str, Any]) -> None:
    """The fleet that is mounted by default is served whole."""
    mount = filled(compose["services"]["nano"]["volumes"][0]).split(":")[0]
    fleet = read_yaml(ROOT / mount / "agents.yaml")

    pools = [
        service["command"][2]
        for service in compose["services"].values()
        if service.get("command", [])[:2] == ["worker", "--pool"]
    ]

    assert list(fleet["tiers"]) == pools


def test_web_ui_finds_its_codec_server(compose: dict[str, Any]) -> None:
    """The browser is told where the codec server is published, which knows its page."""
    codec, ui = compose["services"]["codec"], compose["services"]["ui"]
    args = parser().parse_args(codec["command"])
    address, outside, inside = codec["ports"][0].split(":")
    page = ui["ports"][0].rpartition(":")[0]

    assert f"http://{address}:{outside}" == ui["environment"]["TEMPORAL_CODEC_ENDPOINT"]
    assert ("0.0.0.0", int(inside)) == (args.host, args.port)
    assert set(ui_origins(port_of(page))) == set(args.origin)


def test_workers_may_drain(compose: dict[str, Any]) -> None:
    """The engine waits longer than a worker does, and SIGTERM reaches the worker."""
    for name in WORKERS:
        service = compose["services"][name]
        engine = float(service["stop_grace_period"].removesuffix("s"))
        worker = parser().parse_args(service["command"]).grace

        assert worker < engine, name
        assert service["init"] is True, name


def test_only_pools_get_provider_keys(compose: dict[str, Any]) -> None:
    """The processes that call no model have no key that could leak."""
    holders = {
        name
        for name, service in compose["services"].items()
        if "OPENAI_API_KEY" in service.get("environment", {})
    }

    assert holders == {"nano", "standard", "premium"}


def test_example_environment_names_every_variable() -> None:
    """`.env.example` has all variables of the compose file, and no secret."""
    used = {match[1] for match in _VARIABLE.finditer(COMPOSE.read_text())}
    lines = (ROOT / ".env.example").read_text().splitlines()
    named = dict(
        line.split("=", 1) for line in lines if line and not line.startswith("#")
    )

    assert used | {"COMPOSE_PROFILES"} == set(named)
    assert {n for n in named if re.search("PASSWORD|KEY", n) and named[n]} == set()
    assert "${POSTGRES_PASSWORD:?" in COMPOSE.read_text()
    assert "${POSTGRES_PASSWORD:-" not in COMPOSE.read_text()


def test_server_has_the_settings_of_the_embedded_one(compose: dict[str, Any]) -> None:
    """The same dynamic configuration holds in compose and in `tierpool dev`."""
    inside = Path(
        compose["services"]["temporal"]["environment"]["DYNAMIC_CONFIG_FILE_PATH"]
    )
    source, target, _ = compose["services"]["temporal"]["volumes"][0].split(":")
    settings = read_yaml(ROOT / source / inside.relative_to(target))

    values = {
        key: [entry["value"] for entry in entries] for key, entries in settings.items()
    }

    assert {key: [json.loads(value)] for key, value in DYNAMIC_CONFIG.items()} == values


def test_namespace_script_has_all_search_attributes() -> None:
    """The script registers the attributes that workers would, with the same types."""
    text = (ROOT / "deploy" / "temporal" / "init-namespace.sh").read_text()

    found = dict(re.findall(r"^(Tierpool\w+):(\w+)$", text, re.MULTILINE))

    assert found == SEARCH_ATTRIBUTES


def test_images_are_built_from_what_exists(compose: dict[str, Any]) -> None:
    """Files copied into the images exist and are not ignored; targets exist; nobody is root."""
    text = (ROOT / "Dockerfile").read_text()
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    stages = dict(
        re.findall(r"^FROM \S+ AS ([\w-]+)\n(.*?)(?=^FROM|\Z)", text, re.M | re.S)
    )
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    sources = [source for line in copied for source in line.split()]

    missing = [source for source in sources if not (ROOT / source).exists()]
    hidden = [source for source in sources if f"!{source}" not in allowed]
    built = [s["build"]["target"] for s in compose["services"].values() if "build" in s]

    assert missing == []
    assert hidden == []
    assert set(built) == {"worker", "model"}
    for target in set(built):
        assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", stages[target], re.MULTILINE)
    assert re.search(r"^ARG PYTHON=python:3\.11\.\d+-slim-\w+$", text, re.MULTILINE)
