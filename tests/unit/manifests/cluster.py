"""What a cluster does with manifests, as far as it can be done without one."""

from __future__ import annotations

import copy
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Dangling(Exception):
    """Something is named that there is not."""


def documents(text: str) -> list[Object]:
    """Read a file as Kubernetes' tools do: as YAML 1.1."""
    return [one for one in yaml.load_all(text, Loader=_LOADER) if one is not None]


def resolved(files: Mapping[str, str], folder: str) -> list[Object]:
    """Return the objects of a kustomization, patched and in its namespace.

    Names of config maps get no hash. Only what our files use is known.

    Raises:
        Dangling: for a file that there is not, or a patch without an object.
    """
    (top,) = documents(_file(files, f"{folder}/kustomization.yaml"))
    known = {"apiVersion", "kind", "namespace", "resources", "configMapGenerator"}
    assert set(top) <= known | {"patches"}, folder
    found: list[Object] = []
    for name in top["resources"]:
        path = posixpath.normpath(f"{folder}/{name}")
        is_folder = f"{path}/kustomization.yaml" in files
        found += resolved(files, path) if is_folder else documents(_file(files, path))
    for one in top.get("configMapGenerator", ()):
        data = {}
        for name in one.get("files", ()):
            data[posixpath.basename(name)] = _file(files, f"{folder}/{name}")
        data |= dict(literal.split("=", 1) for literal in one.get("literals", ()))
        found.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": one["name"]},
                "data": data,
            }
        )
    for one in top.get("patches", ()):
        for patch in documents(_file(files, f"{folder}/{one['path']}")):
            found = _patched(found, patch)
    if "namespace" in top:
        for one in found:
            if one["kind"] != "Namespace":
                one["metadata"]["namespace"] = top["namespace"]
            for subject in one.get("subjects", ()):
                subject["namespace"] = top["namespace"]
    return found


def _file(files: Mapping[str, str], path: str) -> str:
    try:
        return files[path]
    except KeyError:
        raise Dangling(f"{path} is named and not there") from None


def _patched(objects: list[Object], patch: Object) -> list[Object]:
    target = (patch["kind"], patch["metadata"]["name"])
    hits = [o for o in objects if (o["kind"], o["metadata"]["name"]) == target]
    if len(hits) != 1:
        raise Dangling(f"the patch of {target} fits {len(hits)} objects")
    if patch.get("$patch") == "delete":
        return [one for one in objects if one is not hits[0]]
    return [_merged(one, patch) if one is hits[0] else one for one in objects]


def _merged(value: Any, patch: Any) -> Any:
    if isinstance(value, dict) and isinstance(patch, dict):
        return {
            key: _merged(value[key], patch[key])
            if key in value and key in patch
            else copy.deepcopy(patch.get(key, value.get(key)))
            for key in {**value, **patch}
        }
    if isinstance(value, list) and isinstance(patch, list) and _is_named(patch):
        changes = {one["name"]: one for one in patch}
        assert set(changes) <= {one["name"] for one in value}
        return [_merged(one, changes.get(one["name"], {})) for one in value]
    return patch


def _is_named(values: list[Any]) -> bool:
    return all(isinstance(one, dict) and "name" in one for one in values)


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """Return the objects of a kind by name."""
    found = {o["metadata"]["name"]: o for o in objects if o["kind"] == kind}
    assert len(found) == sum(o["kind"] == kind for o in objects)
    return found


def container(deployment: Object) -> Object:
    """Return a Deployment's one container."""
    (one,) = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(one, dict)
    return one


def dangling(objects: list[Object], secrets: set[str]) -> list[str]:
    """Return every reference that leads nowhere.

    Args:
        objects: All objects.
        secrets: Secrets that whoever applies them makes.
    """
    found: list[str] = []
    for name, one in of_kind(objects, "Deployment").items():
        found += [f"{name}: {fault}" for fault in _of_pod(objects, one, secrets)]
    pods = {
        name: one["spec"]["template"]["metadata"]["labels"]
        for name, one in of_kind(objects, "Deployment").items()
    }
    for kind, least, most in (
        ("Service", 1, 99),
        ("PodDisruptionBudget", 1, 1),
        ("NetworkPolicy", len(pods), len(pods)),
    ):
        for name, one in of_kind(objects, kind).items():
            spec = one["spec"]
            wanted = spec.get("podSelector", spec.get("selector"))
            wanted = wanted.get("matchLabels", wanted)
            hits = [pod for pod in pods.values() if wanted.items() <= pod.items()]
            if not least <= len(hits) <= most:
                found.append(f"{kind} {name} selects {len(hits)} Deployments")
    return found + _of_rights(objects) + list(_of_scalers(objects))


def _of_scalers(objects: list[Object]) -> Iterator[str]:
    known = of_kind(objects, "Deployment")
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        for name, one in of_kind(objects, kind).items():
            target = one["spec"]["scaleTargetRef"]["name"]
            if target not in known:
                yield f"{kind} {name} scales {target}"
            elif "replicas" in known[target]["spec"]:
                yield f"{kind} {name} scales {target}, whose number is fixed"


def _of_rights(objects: list[Object]) -> list[str]:
    roles, accounts = of_kind(objects, "Role"), of_kind(objects, "ServiceAccount")
    found = []
    for name, one in of_kind(objects, "RoleBinding").items():
        if one["roleRef"]["name"] not in roles:
            found.append(f"RoleBinding {name} gives {one['roleRef']['name']}")
        found += [
            f"RoleBinding {name} is for {subject['name']}"
            for subject in one["subjects"]
            if subject["name"] not in accounts
            or subject["namespace"] != one["metadata"]["namespace"]
        ]
    found += [
        f"Role {name} is about {target}"
        for name, one in roles.items()
        for target in one["rules"][0]["resourceNames"]
        if target not in of_kind(objects, "Deployment")
    ]
    return found


def _of_pod(objects: list[Object], one: Object, secrets: set[str]) -> Iterator[str]:
    template, inside = one["spec"]["template"], container(one)
    pod = template["spec"]
    maps = {name: o["data"] for name, o in of_kind(objects, "ConfigMap").items()}
    wanted = one["spec"]["selector"]["matchLabels"].items()
    if not wanted <= template["metadata"]["labels"].items():
        yield "does not select its own pods"
    if pod["serviceAccountName"] not in of_kind(objects, "ServiceAccount"):
        yield f"runs as {pod['serviceAccountName']}"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for volume in volumes.values():
        source = volume.get("configMap")
        if source is not None and source["name"] not in maps:
            yield f"mounts the config map {source['name']}"
        elif source is not None:
            keys = [item["key"] for item in source["items"]]
            if sorted(keys) != sorted(maps[source["name"]]):
                yield f"mounts {keys} of {sorted(maps[source['name']])}"
    mounted = [mount["name"] for mount in inside["volumeMounts"]]
    if sorted(mounted) != sorted(volumes):
        yield f"mounts {mounted} of {sorted(volumes)}"
    yield from _of_container(inside, set(maps), secrets)


def _of_container(inside: Object, maps: set[str], secrets: set[str]) -> Iterator[str]:
    for source in inside["envFrom"]:
        name = source.get("configMapRef", source.get("secretRef"))["name"]
        if name not in (maps if "configMapRef" in source else secrets):
            yield f"takes variables of {name}"
    for variable in inside["env"]:
        key = variable.get("valueFrom", {}).get("secretKeyRef")
        if key is not None and key["name"] not in secrets:
            yield f"takes {variable['name']} of {key['name']}"
    ports = {port["name"] for port in inside["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if inside[probe]["httpGet"]["port"] not in ports:
            yield f"is probed at {inside[probe]['httpGet']['port']}"


def pod_view(root: Path, objects: list[Object], deployment: Object) -> Path:
    """Lay out the volumes of a pod as a kubelet does; return its root folder.

    The files of a config map are reached through links; folders of volumes
    mounted within it are made there. Other volumes are the folders
    `volumes/NAME` beside the root, linked to where they are mounted.
    """
    spec = deployment["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    inner, outer = root / "root", root / "volumes"
    for mount in sorted(
        container(deployment)["volumeMounts"], key=lambda m: m["mountPath"]
    ):
        target = inner / mount["mountPath"].lstrip("/")
        source = volumes[mount["name"]].get("configMap")
        if source is None:
            folder = outer / mount["name"]
            folder.mkdir(parents=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(folder)
            continue
        data = of_kind(objects, "ConfigMap")[source["name"]]["data"]
        version = target / "..2026_11_22"
        for item in source["items"]:
            path = version / item["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(data[item["key"]])
        (target / "..data").symlink_to(version.name)
        for top in sorted({item["path"].split("/")[0] for item in source["items"]}):
            (target / top).symlink_to(f"..data/{top}")
    return inner


def is_writable(deployment: Object, path: str) -> bool:
    """Tell whether the innermost volume over a path may be written to."""
    inside = container(deployment)
    mounts = [
        (len(m["mountPath"]), not m.get("readOnly", False))
        for m in inside["volumeMounts"]
        if path == m["mountPath"] or path.startswith(m["mountPath"] + "/")
    ]
    if not mounts:
        return not inside["securityContext"]["readOnlyRootFilesystem"]
    return max(mounts)[1]
