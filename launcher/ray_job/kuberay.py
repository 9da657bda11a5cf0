"""Options -> the manifest of a RayJob (ray.io/v1) and of the ConfigMap with what it runs: a pure function.

The recipe and the user's modules lie in the ConfigMap, mounted in every pod; run directory and data lie on a volume that all
pods share. KubeRay brings up a Ray for the job, and after a failure another one, in which the run goes on.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kdscale.errors import UserError

SENT = "/kdscale"
"""Where the ConfigMap is mounted."""
MOST_BYTES = 900_000
"""Of what a ConfigMap may hold; Kubernetes takes a mebibyte."""
_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_QUANTITY = re.compile(r"\d+(\.\d+)?([KMGTPE]i?|m|k)?$")


@dataclass(frozen=True)
class Wanted:
    """All that a manifest is made of."""

    name: str
    image: str
    claim: str
    mount: str
    entrypoint: str
    workers: int = 1
    cpus: int = 4
    gpus: int = 0
    memory: str = "16Gi"
    namespace: str | None = None
    retries: int = 2
    runtime_env: dict[str, Any] = field(default_factory=dict)


def render(wanted: Wanted, parcel: Path) -> str:
    """Two documents of YAML for kubectl.

    Args:
        parcel: the folder with what travels.

    Raises:
        UserError: what Kubernetes would not take.
    """
    return yaml.safe_dump_all([config_map(wanted, parcel), ray_job(wanted, parcel)], sort_keys=False, width=120)


def config_map(wanted: Wanted, parcel: Path) -> dict[str, Any]:
    data = {_key(path, parcel): path.read_text(encoding="utf-8") for path in _files(parcel)}
    size = sum(len(text.encode()) for text in data.values())
    if size > MOST_BYTES:
        raise UserError(
            f"{size} bytes of recipe and modules do not fit into a ConfigMap; put the modules into the image, and give another "
            "--working-dir"
        )
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(wanted), "data": data}


def ray_job(wanted: Wanted, parcel: Path) -> dict[str, Any]:
    if wanted.workers < 0 or wanted.cpus < 1 or wanted.gpus < 0:
        raise UserError("--workers and --gpus-per-worker are 0 or more, --cpus-per-worker is 1 or more")
    if not _QUANTITY.match(wanted.memory):
        raise UserError(f"--memory-per-worker {wanted.memory}: is no quantity of Kubernetes; write it as 16Gi")
    for option, text in (("--claim", wanted.claim), ("--namespace", wanted.namespace)):
        if text is not None and not _NAME.fullmatch(text):
            raise UserError(f"{option} {text}: is no name of Kubernetes; it has lower-case letters, digits, - and .")
    if not wanted.image or any(char.isspace() for char in wanted.image):
        raise UserError(f"--image {wanted.image!r}: is no name of an image; write it as me/kdscale:1")
    if not wanted.mount.startswith("/"):
        raise UserError(f"--mount {wanted.mount}: is no absolute path")
    items = [{"key": _key(path, parcel), "path": str(path.relative_to(parcel))} for path in _files(parcel)]
    volumes = [
        {"name": "shared", "persistentVolumeClaim": {"claimName": wanted.claim}},
        {"name": "sent", "configMap": {"name": name(wanted.name), "items": items}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
    ]
    head = {"rayStartParams": {"num-cpus": "0"}, "template": _pod("ray-head", wanted, volumes, cpus=2, gpus=0)}
    group = {
        "groupName": "workers",
        "replicas": wanted.workers,
        "minReplicas": wanted.workers,
        "maxReplicas": wanted.workers,
        "rayStartParams": {},
        "template": _pod("ray-worker", wanted, volumes, wanted.cpus, wanted.gpus),
    }
    if not wanted.workers:
        head = {"rayStartParams": {}, "template": _pod("ray-head", wanted, volumes, wanted.cpus, wanted.gpus)}
    settings = wanted.runtime_env.get("env_vars", {})
    runtime_env = {**wanted.runtime_env, "env_vars": {**settings, "PYTHONPATH": SENT}}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _metadata(wanted),
        "spec": {
            "entrypoint": wanted.entrypoint,
            "runtimeEnvYAML": yaml.safe_dump(runtime_env, sort_keys=False),
            "submissionMode": "K8sJobMode",
            "backoffLimit": wanted.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 60,
            "rayClusterSpec": {"headGroupSpec": head, **({"workerGroupSpecs": [group]} if wanted.workers else {})},
        },
    }


def name(text: str) -> str:
    """A recipe's name as Kubernetes takes names; Ray adds to them, so they stay short."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")


def _metadata(wanted: Wanted) -> dict[str, Any]:
    where = {"namespace": wanted.namespace} if wanted.namespace else {}
    return {"name": name(wanted.name), **where, "labels": {"app.kubernetes.io/part-of": "kdscale"}}


def _pod(container: str, wanted: Wanted, volumes: list[dict[str, Any]], cpus: int, gpus: int) -> dict[str, Any]:
    amounts: dict[str, Any] = {"cpu": str(cpus), "memory": wanted.memory}
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
    mounts = [("shared", wanted.mount), ("sent", SENT), ("memory", "/dev/shm")]
    return {
        "spec": {
            "containers": [
                {
                    "name": container,
                    "image": wanted.image,
                    "resources": {"requests": dict(amounts), "limits": dict(amounts)},
                    "volumeMounts": [{"name": volume, "mountPath": path} for volume, path in mounts],
                }
            ],
            "volumes": volumes,
        }
    }


def _files(parcel: Path) -> list[Path]:
    return sorted(path for path in parcel.rglob("*") if path.is_file())


def _key(path: Path, parcel: Path) -> str:
    """A key of a ConfigMap has no slashes."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", "__".join(path.relative_to(parcel).parts))
