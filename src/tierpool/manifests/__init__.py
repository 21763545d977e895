"""Kubernetes manifests of a fleet: a kustomize base and overlays; pure.

From a loaded fleet file to a mapping of path and text. Reading what the file
names and writing the result is done by `tierpool manifests`.
"""

from tierpool.manifests.files import FleetFile, named_files
from tierpool.manifests.names import deployment_name
from tierpool.manifests.render import Manifests, render
from tierpool.manifests.settings import Settings, check_settings

__all__ = [
    "FleetFile",
    "Manifests",
    "Settings",
    "check_settings",
    "deployment_name",
    "named_files",
    "render",
]
