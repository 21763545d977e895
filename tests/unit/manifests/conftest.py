"""Fleets on disk and their manifests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from tests.unit.manifests.fleets import SMALL, WIDE, Make

from tierpool.cli.manifests import _rendered
from tierpool.config import load_fleet
from tierpool.manifests import Manifests, Settings


def _fleet_in(home: Path) -> Path:
    (home / "prompts").mkdir(parents=True)
    (home / "schemas").mkdir()
    (home / "prompts" / "writer.md").write_text('Write.  \n\ttwo: "lines" ünd\n')
    (home / "schemas" / "reply.json").write_text(
        '{"type": "object", "properties": {"text": {"type": "string"}}}'
    )
    return home


def _made(home: Path, text: str, settings: Mapping[str, str]) -> Manifests:
    path = home / "agents.yaml"
    path.write_text(text)
    image = {"image": "acme/tierpool:1.2.3"}
    return _rendered(load_fleet(path), Settings(**image | dict(settings)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what the fleets name."""
    return _fleet_in(tmp_path / "fleet")


@pytest.fixture
def make(folder: Path) -> Make:
    """Render a text as agents.yaml, with settings by name."""
    return lambda text=SMALL, **settings: _made(folder, text, settings)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The manifests of a fleet with everything, made once."""
    home = _fleet_in(tmp_path_factory.mktemp("wide") / "fleet")
    settings = {"prometheus_url": "http://p:9090", "temporal_address": "t:7233"}
    return MappingProxyType(_made(home, WIDE, settings | {"namespace": "agents"}).files)
