"""What a cluster does not take is converted, or refused with all there is to say."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.manifests.cluster import of_kind, resolved
from tests.unit.manifests.fleets import SMALL, WIDE, Make

from tierpool.errors import ConfigError
from tierpool.manifests import deployment_name

TIER = "nano: {model: openai:gpt-5-nano, pool: {max_instances: 16}}"


def refused(make: Make, text: str = SMALL, **settings: str) -> list[tuple[str, str]]:
    """Return place and message of what is refused."""
    with pytest.raises(ConfigError) as caught:
        make(text, **settings)
    assert all(
        problem.file or problem.path[:2] == "--" for problem in caught.value.problems
    )
    return [(problem.path, problem.message) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("fleet", "pool", "name"),
    [
        ("acme", "nano", "acme-nano"),
        ("acme", "Big_Model", "acme-big-model"),
        ("acme", "a__b", "acme-a--b"),
        ("acme", "last_", "acme-last"),
        ("7up", "nano", "fleet-7up-nano"),
    ],
)
def test_names_are_converted(fleet: str, pool: str, name: str) -> None:
    """Capitals and underscores become what a cluster takes; a letter comes first."""
    assert name == deployment_name(fleet, pool)


@pytest.mark.parametrize(
    ("tiers", "path", "message"),
    [
        ("Nano: {model: openai:gpt-5}", "tiers.Nano", "'acme-nano' would be that of 'nano' too"),
        ("autoscaler: {model: openai:gpt-5}", "tiers.autoscaler", "would be that of 'autoscaler' too"),
        ("Flows: {model: openai:gpt-5}", "tiers.Flows", "would be that of 'flows' too"),
        ("big_: {model: openai:gpt-5}", "tiers.big_", "must end with a letter or digit"),
        (f"{'x' * 50}: {{model: openai:gpt-5}}", f"tiers.{'x' * 50}", "has 55 characters; with KEDA's prefix a cluster takes 54"),
    ],
)  # fmt: skip
def test_bad_names_of_tiers_are_refused(
    make: Make, tiers: str, path: str, message: str
) -> None:
    """Collisions, ends and lengths are named with their place."""
    ((where, said),) = refused(make, SMALL.replace(TIER, f"{TIER}\n  {tiers}"))

    assert path == where
    assert message in said


def test_longest_names_fit(make: Make) -> None:
    """54 characters pass."""
    text = SMALL.replace("nano:", f"{'x' * 49}:")

    pods = of_kind(resolved(make(text).files, "base"), "Deployment")

    assert 54 == max(len(name) for name in pods)


def test_bad_fleet_names_are_refused(make: Make) -> None:
    """A fleet's name ends like a label, and leaves room for the parts."""
    assert [
        ("fleet", "'acme-' cannot be a label: it must end with a letter or digit")
    ] == (refused(make, SMALL.replace("fleet: acme", "fleet: acme-")))
    places = [place for place, _ in refused(make, SMALL.replace("acme", "a" * 60))]
    assert ["tiers.nano"] == places


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("image", "tierpool", "an image with a tag"),
        ("image", "tierpool:latest", "other than `latest`"),
        ("image", "Not An Image:1", "an image with a tag"),
        ("image", "tierpool@sha256:12", "an image with a tag"),
        ("image", "http://registry.example/tierpool:1", "an image with a tag"),
        ("image", "registry.example//tierpool:1", "an image with a tag"),
        ("image", "registry.example/:1", "an image with a tag"),
        ("image", "tier..pool:1", "an image with a tag"),
        ("image", "tierpool:1@sha256:12", "an image with a tag"),
        ("namespace", "My_Space", "small letters"),
        ("namespace", "", "small letters"),
        ("namespace", "x" * 64, "at most 63"),
        ("temporal_address", "http://temporal:7233", "HOST:PORT without http://"),
        ("temporal_address", "temporal", "HOST:PORT"),
        ("temporal_address", "temporal:99999", "HOST:PORT"),
        ("temporal_namespace", "a b", "letters, digits, `.`, `_` and `-`, at most 255"),
        ("prometheus_url", "http://prometheus:99999", "an address"),
        ("prometheus_url", "prometheus:9090", "an address"),
        ("prometheus_url", "http://user:secret@prometheus", "without a password"),
        ("local_model_url", "http://llm/v1?key=x", "without a password or query"),
    ],
)
def test_bad_options_are_refused(
    make: Make, option: str, value: str, message: str
) -> None:
    """The option, the value and what would be right are named."""
    ((path, said),) = refused(make, **{option: value})

    assert f"--{option.replace('_', '-')}" == path
    assert message in said


@pytest.mark.parametrize(
    "image",
    [
        "tierpool:0.1.0",
        "registry.example:5000/team/tierpool:v1",
        "ghcr.io/team/tierpool@sha256:" + "0a" * 32,
        "ghcr.io/team/tierpool:1.2@sha256:" + "0a" * 32,
        "localhost/my-team/tier__pool.small:1_2",
    ],
)
def test_pinned_images_are_taken(make: Make, image: str) -> None:
    """Tags, ports of registries and digests are all right."""
    assert f'image: "{image}"' in make(SMALL, image=image).files["base/flows.yaml"]


def test_all_problems_come_at_once(make: Make) -> None:
    """Options and the file are checked together."""
    text = SMALL.replace(TIER, f"{TIER}\n  Nano: {{model: openai:gpt-5}}")

    places = [place for place, _ in refused(make, text, image="x", namespace="X")]

    assert ["--image", "--namespace", "tiers.Nano"] == places


def test_files_with_the_same_key_are_refused(make: Make, folder: Path) -> None:
    """A config map has no folders: two paths may not become one key."""
    (folder / "prompts.writer.md").write_text("Other.\n")
    text = SMALL + "  other: {prompt: prompts.writer.md}\n"

    ((path, said),) = refused(make, text)

    assert "agents.writer.prompt" == path
    assert "would be the key 'prompts.writer.md' of 'prompts.writer.md' too" in said


def test_files_that_a_pod_would_not_see_are_refused(make: Make, folder: Path) -> None:
    """An absolute path, and one in the folder of the pod's own state."""
    (folder / ".tierpool").mkdir()
    (folder / ".tierpool" / "p.md").write_text("Hidden.\n")
    absolute = folder / "prompts" / "writer.md"
    text = SMALL + f"  a: {{prompt: {absolute}}}\n  b: {{prompt: .tierpool/p.md}}\n"

    found = dict(refused(make, text))

    assert {"agents.a.prompt", "agents.b.prompt"} == set(found)
    assert "absolute path; write it relative" in found["agents.a.prompt"]
    assert "where a pod has its own state" in found["agents.b.prompt"]


def test_odd_file_names_are_converted(make: Make, folder: Path) -> None:
    """Blanks and letters that a key does not take stay in the path of the pod."""
    (folder / "prompts" / "für alle.md").write_text("Answer.\n")
    text = SMALL + '  all: {prompt: "prompts/für alle.md"}\n'

    pods = of_kind(resolved(make(text).files, "base"), "Deployment")

    volume = pods["acme-nano"]["spec"]["template"]["spec"]["volumes"][0]
    item = {"key": "prompts.f.r.alle.md", "path": "prompts/für alle.md"}
    assert item in volume["configMap"]["items"]


def test_too_large_a_config_map_is_refused(make: Make, folder: Path) -> None:
    """Above 1 MiB the size, the limit and the largest files are named."""
    text = SMALL
    for number in range(17):
        (folder / "prompts" / f"p{number}.md").write_text("x" * (63_000 + number))
        text += f"  r{number}: {{prompt: prompts/p{number}.md}}\n"

    ((_, said),) = refused(make, text)

    assert "a ConfigMap holds 1,048,576" in said
    assert "prompts/p16.md 63,016" in said


def test_large_config_maps_come_with_a_warning(make: Make, folder: Path) -> None:
    """What client-side apply would refuse is said beforehand."""
    text = SMALL
    for number in range(4):
        (folder / "prompts" / f"p{number}.md").write_text("x" * 60_000)
        text += f"  r{number}: {{prompt: prompts/p{number}.md}}\n"

    (warning,) = make(text).warnings

    assert "--server-side" in warning.message


@pytest.mark.parametrize("workdir", ["/", ".", "/etc", ".tierpool", "prompts"])
def test_folders_of_programs_that_cover_something_are_refused(
    make: Make, workdir: str
) -> None:
    """A volume there would hide the fleet file, a prompt or the journal."""
    text = WIDE.replace("workdir: /var/lib/tierpool", f"workdir: {workdir}")

    ((path, said),) = refused(make, text)

    assert "workdir" == path
    assert "name a folder of its own" in said


def test_warnings_name_what_the_manifests_cannot_bring(make: Make) -> None:
    """Code, programs, an address that may be secret, a paused pool."""
    hook = "guardrails: {alert_webhook: 'https://hooks.example/T/secret'}\n"

    found = {problem.path: problem.message for problem in make(WIDE + hook).warnings}

    assert {
        "guardrails.alert_webhook", "agents.tests.run", "agents.lint.run",
        "agents.gate.call", "tiers.paused.pool.max_instances",
    } == set(found)  # fmt: skip
    assert "'acme.gates:sanity' has to be in the image" == found["agents.gate.call"]
