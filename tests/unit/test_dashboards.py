"""Dashboards, alert rules and what provisions them, checked without their programs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.expressions import (
    DASHBOARDS,
    ROOT,
    RULES,
    Asked,
    asked,
    expressions,
    read_yaml,
)

from tierpool import telemetry

OURS = telemetry.METRICS | telemetry.METERED | telemetry.AUTOSCALER_METRICS
PARTS = re.compile("_(bucket|sum|count)$")
PIPED = re.compile(r"\{\{\s*\$(?:labels\.(\w+)|value)(?:\s*\|\s*\w+)?\s*\}\}")
DURATION = re.compile(r"\d+[smhd]")
SERVICES = read_yaml(ROOT / "docker-compose.yml")["services"]


def board(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_metric_is_found_with_all_that_it_needs() -> None:
    """The extractor sees matchers, groupings and le; Prometheus's own labels are given."""
    expression = (
        'histogram_quantile(0.9, sum by (a, le) (rate(m_bucket{b="1", job="j"}[5m])))'
        " / on (a) max by (a) (n)"
    )

    found = asked("here", expression)

    assert [
        Asked("here", "m_bucket", frozenset({"a", "b", "le"})),
        Asked("here", "n", frozenset({"a"})),
    ] == found


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_expressions_parse_and_use_known_metrics(where: str, expression: str) -> None:
    """No expression has a typing error or a name that tierpool does not know."""
    found = asked(where, expression)

    assert found
    for one in found:
        base = PARTS.sub("", one.metric)
        known = base in OURS or one.metric in OURS
        assert known or one.metric.startswith("temporal_") or one.metric == "up", one


def test_what_tierpool_tells_about_pools_money_and_calls_is_shown() -> None:
    """A metric that no panel and no rule uses is left out on purpose."""
    used = {PARTS.sub("", one.metric) for e in expressions() for one in asked(*e)}

    of_processes = {
        telemetry.METRIC_PROCESSES, telemetry.METRIC_PROCESSES_ENDED,
        telemetry.METRIC_WORKER_STATE, telemetry.METRIC_WORKER_CALLS,
        telemetry.METRIC_POOL_BUILT,
    }  # fmt: skip
    assert OURS.keys() - used == of_processes


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_are_whole(path: Path) -> None:
    """Names and numbers are there once, panels do not overlap, and all ask one source."""
    dashboard = board(path)
    panels = dashboard["panels"]
    cells = [
        (x, y)
        for panel in panels
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]

    assert f"tierpool-{path.stem}" == dashboard["uid"]
    assert (
        len(panels)
        == len({p["id"] for p in panels})
        == len({p["title"] for p in panels})
    )
    assert len(cells) == len(set(cells))
    assert 24 > max(x for x, _ in cells)
    assert ["datasource", "fleet"] == [
        v["name"] for v in dashboard["templating"]["list"]
    ]
    for panel in panels:
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))
        assert panel["description"].endswith(".")
        for source in [
            panel["datasource"],
            *(t["datasource"] for t in panel["targets"]),
        ]:
            assert {"type": "prometheus", "uid": "${datasource}"} == source


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_legends_name_labels_that_are_left(path: Path) -> None:
    """A legend's label is one of those that the expression groups by."""
    for panel in board(path)["panels"]:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            groups = re.search(r"by \(([^)]*)\)", target["expr"])
            kept = {g.strip() for g in groups[1].split(",")} if groups else set()
            assert named <= kept, (panel["title"], target["legendFormat"])


def test_alert_rules_have_what_prometheus_reads() -> None:
    """Every rule has known keys, a name of its own, a severity and words for people."""
    document = read_yaml(RULES)
    rules = [rule for group in document["groups"] for rule in group["rules"]]

    assert {"groups"} == document.keys()
    assert all({"name", "rules"} == group.keys() for group in document["groups"])
    assert len(rules) == len({rule["alert"] for rule in rules})
    for rule in rules:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert DURATION.fullmatch(rule.get("for", "0s"))
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_alerts_speak_of_labels_that_they_have() -> None:
    """A label in the words of an alert is one that its expression keeps."""
    for group in read_yaml(RULES)["groups"]:
        for rule in group["rules"]:
            text = " ".join(rule["annotations"].values())
            named = {found for found in PIPED.findall(text) if found}
            groups = re.search(r"by \(([^)]*)\)", rule["expr"])
            kept = {g.strip() for g in groups[1].split(",")} if groups else {"instance"}
            assert "{{" not in PIPED.sub("", text)
            assert named <= kept, rule["alert"]


def test_the_asked_for_alerts_are_there() -> None:
    """Utilisation over 80 % for 15 minutes, the threshold, denials, age of the backlog."""
    rules = {
        rule["alert"]: (rule["expr"], rule.get("for", ""))
        for group in read_yaml(RULES)["groups"]
        for rule in group["rules"]
    }

    busy, how_long = rules["TierpoolPoolBusy"]
    assert (True, "15m") == (busy.endswith("> 0.8"), how_long)
    assert "tierpool_hour_alerting" in rules["TierpoolCostAboveThreshold"][0]
    assert "tierpool_cost_denied_total" in rules["TierpoolDenials"][0]
    age, target = rules["TierpoolBacklogOld"][0].split(" > ")
    assert "tierpool_pool_backlog_age_seconds" in age
    assert "tierpool_pool_wait_target_seconds" in target


def test_every_alert_is_explained() -> None:
    """docs/telemetry.md names each alert and each metric."""
    text = (ROOT / "docs" / "telemetry.md").read_text()
    rules = [r["alert"] for g in read_yaml(RULES)["groups"] for r in g["rules"]]

    assert [] == [name for name in rules if f"`{name}`" not in text]
    made = telemetry.METERED | telemetry.AUTOSCALER_METRICS
    assert [] == [name for name in made if name not in text]


def test_prometheus_reads_every_worker_of_the_compose_file() -> None:
    """Its targets are the services that run tierpool, on the port they listen on."""
    jobs = {
        job["job_name"]: job
        for job in read_yaml(RULES.parent / "prometheus.yml")["scrape_configs"]
    }
    (found,) = jobs["tierpool"]["dns_sd_configs"]
    workers = [
        name
        for name, service in SERVICES.items()
        if service.get("command", [""])[0] in ("worker", "autoscale")
    ]
    ports = {SERVICES[name]["command"][-1].rpartition(":")[2] for name in workers}

    assert sorted(workers) == sorted(found["names"])
    assert {str(found["port"])} == ports
    (temporal,) = jobs["temporal"]["static_configs"]
    (target,) = temporal["targets"]
    assert target.endswith(
        SERVICES["temporal"]["environment"]["PROMETHEUS_ENDPOINT"].partition(":")[2]
    )


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    """What is provisioned is what the compose file mounts and starts."""
    provisioned = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = read_yaml(provisioned / "datasources" / "prometheus.yml")["datasources"]
    (provider,) = read_yaml(provisioned / "dashboards" / "tierpool.yml")["providers"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])

    assert "http://prometheus:9090" == source["url"]
    assert provider["options"]["path"] == mounts["./deploy/grafana/dashboards"]
    assert "/etc/grafana/provisioning" == mounts["./deploy/grafana/provisioning"]
    assert (
        ["metrics"]
        == SERVICES["grafana"]["profiles"]
        == SERVICES["prometheus"]["profiles"]
    )
