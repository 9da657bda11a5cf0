"""What travels to a Ray, what is refused before anything is sent, and manifests for KubeRay.

tests/integration/test_ray_job.py has a real Ray.
"""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jsonschema
import pytest
import yaml
from support.place import write_recipe

from kdscale import recipe_files as recipes
from kdscale.errors import UserError
from launcher.ray_job import client, kuberay, parcel
from launcher.ray_job.verbs import command, environment

ROOT = Path(__file__).parents[2]
QUICK = str(ROOT / "configs" / "quickstart.yaml")


def kdscale(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launcher", *words],
        env={**os.environ, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_only_the_recipe_and_the_modules_it_needs_travel(tmp_path: Path) -> None:
    beside, sent = tmp_path / "here", tmp_path / "sent"
    for name, text in {
        "nets.py": "import torch\nfrom helper.sizes import WIDTH\n\ndef small(shape, classes): ...\n",
        "helper/__init__.py": "",
        "helper/sizes.py": "import deeper\n",
        "helper/__pycache__/sizes.pyc": "",
        "deeper.py": "import nets\n",
        "unrelated.py": "",
        "secret.txt": "",
        "torch_notes.md": "",
    }.items():
        (beside / name).parent.mkdir(parents=True, exist_ok=True)
        (beside / name).write_text(text)
    place = write_recipe(beside, {"student": {"model": "nets:small"}, "data": {"source": "folder", "path": "pictures"}})
    sent.mkdir()
    recipe = recipes.load(str(place.folder / "tiny.yaml"), [])
    assert parcel.pack(sent, recipe, beside) == (["deeper.py", "helper", "nets.py"], [])
    assert files(sent) == ["deeper.py", "helper/__init__.py", "helper/sizes.py", "nets.py", "recipe.yaml"]
    assert yaml.safe_load((sent / "recipe.yaml").read_text())["data"]["path"] == str(Path("pictures").absolute())


def test_without_own_code_only_the_recipe_travels(tmp_path: Path) -> None:
    assert parcel.pack(tmp_path, recipes.load(QUICK, []), ROOT) == ([], [])
    assert files(tmp_path) == ["recipe.yaml"]


def test_a_module_that_is_not_here_is_said_to_be_expected_there(tmp_path: Path) -> None:
    own = ("--dry-run", "--working-dir", str(tmp_path), "--", "student.model=nets:small")
    done = kdscale("submit", "ray", QUICK, "--address", "http://h:8265", "--out", str(tmp_path / "r"), *own)
    assert f"  expects nets on the nodes: it is not in {tmp_path}\n" in done.stdout
    done = kdscale("submit", "kuberay", QUICK, "--image", "i", "--claim", "c", *own)
    assert done.stderr == f"expected in the image: nets, not in {tmp_path}\n"
    assert len(list(yaml.safe_load_all(done.stdout))) == 2


def test_the_shell_is_replaced_and_paths_are_quoted() -> None:
    assert command("run", "/shared/it's") == ("""exec python -m launcher run recipe.yaml --out '/shared/it'"'"'s'""")


def test_what_a_job_needs_installed_is_asked_of_ray() -> None:
    found = environment(["kdscale==1", "torch"], None, ["A=b=c"])
    assert found["pip"] == ["kdscale==1", "torch"]
    assert found["env_vars"]["A"] == "b=c"
    assert int(found["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
    assert environment(None, ["kdscale"], None)["uv"] == ["kdscale"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--address", "head:8265"), "is no address of Ray's dashboard"),
        (("--address", "ray://head:10001"), "is no address of Ray's dashboard"),
        (("--address", "http://127.0.0.1:9"), "no Ray answers at http://127.0.0.1:9"),
        (("--address", "http://h:8265", "--token", "/no/such"), "there is no such file"),
        (("--address", "http://h:8265", "--pip", "a", "--uv", "b"), "leave the other out"),
        (("--address", "http://h:8265", "--env", "nonsense"), "is not of the form NAME=VALUE"),
        (("--address", "http://h:8265", "--out", "ftp://host/run"), "a folder that all nodes share"),
        (("--address", "http://h:8265", "--", "cluster.address=h:6379"), "add -- cluster.address=null"),
        (("--address", "http://h:8265", "--", "teachers.cuont=1"), "cuont"),
        (("--address", "http://h:8265", "teachers.count=1"), "come last, after --"),
        (("--address", "http://h:8265", "--working-dir", "/no/such"), "--working-dir /no/such: is no directory"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    out = () if "--out" in words else ("--out", str(tmp_path / "run"))
    done = kdscale("submit", "ray", QUICK, *out, *words)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("kdscale: ")]
    assert said in line
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").glob("jobs/ray-*"))


class Lost(BaseHTTPRequestHandler):
    """A web server that has nothing of Ray."""

    def do_GET(self) -> None:
        self.send_error(404)


def test_a_server_that_is_no_ray_is_called_so(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Lost) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{other.server_port}"
        done = kdscale("submit", "ray", QUICK, "--address", address, "--out", str(tmp_path / "run"))
        other.shutdown()
    assert done.returncode == 2, done.stderr
    assert f"--address {address}: something else than Ray's dashboard answers there" in done.stderr


def test_a_dry_run_says_what_would_be_sent(tmp_path: Path) -> None:
    done = kdscale("submit", "ray", QUICK, "--address", "http://h:8265", "--out", str(tmp_path / "r"), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"--out {tmp_path / 'r'}" in done.stdout
    assert "  sends recipe.yaml" in done.stdout
    assert not (tmp_path / "r").exists()


def test_the_token_is_there_for_the_call_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with client._token(client.Place("http://h", tmp_path / "token")):
        assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"]) == ("token", str(tmp_path / "token"))
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


# What RayJob of ray.io/v1 takes, of the fields that are used here; a field that is not listed is a mistake.
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
POD = {
    "type": "object",
    "required": ["spec"],
    "additionalProperties": False,
    "properties": {
        "spec": {
            "type": "object",
            "required": ["containers"],
            "additionalProperties": False,
            "properties": {
                "containers": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["name", "image"],
                        "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string", "pattern": "^[a-z0-9-]+$"},
                            "image": {"type": "string"},
                            "resources": {
                                "type": "object",
                                "additionalProperties": False,
                                "properties": {"limits": TEXTS, "requests": TEXTS},
                            },
                            "volumeMounts": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["mountPath", "name"],
                                    "additionalProperties": False,
                                    "properties": {"mountPath": {"type": "string"}, "name": {"type": "string"}},
                                },
                            },
                        },
                    },
                },
                "volumes": {"type": "array", "items": {"type": "object", "required": ["name"]}},
            },
        }
    },
}
GROUP: dict[str, Any] = {"rayStartParams": TEXTS, "template": POD}
COUNT = {"type": "integer", "minimum": 0}
RAY_JOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["rayClusterSpec"],
            "properties": {
                "entrypoint": {"type": "string"},
                "runtimeEnvYAML": {"type": "string"},
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
                "backoffLimit": COUNT,
                "ttlSecondsAfterFinished": COUNT,
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "rayClusterSpec": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["headGroupSpec"],
                    "properties": {
                        "headGroupSpec": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["template"],
                            "properties": GROUP,
                        },
                        "workerGroupSpecs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["groupName", "maxReplicas", "minReplicas", "template"],
                                "properties": {
                                    **GROUP,
                                    **{"groupName": {"type": "string"}, "replicas": COUNT},
                                    **{"minReplicas": COUNT, "maxReplicas": COUNT},
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


@pytest.mark.parametrize("workers", ["0", "3"])
def test_a_manifest_is_a_ray_job(workers: str, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("def small(shape, classes): ...\n")
    words = ("--image", "me/kdscale:1", "--claim", "runs", "--workers", workers, "--gpus-per-worker", "2", "-n", "team")
    done = kdscale(
        *("submit", "kuberay", QUICK, *words, "--working-dir", str(tmp_path), "--dry-run"),
        *("--", "student.model=nets:small", "teachers.count=7"),
    )
    assert done.returncode == 0, done.stderr
    sent, job = yaml.safe_load_all(done.stdout)
    jsonschema.validate(job, RAY_JOB)
    assert (sent["kind"], sent["metadata"]["name"]) == ("ConfigMap", "quickstart")
    assert yaml.safe_load(sent["data"]["recipe.yaml"])["teachers"]["count"] == 7
    assert "nets.py" in sent["data"]
    spec = job["spec"]
    assert job["metadata"]["namespace"] == "team"
    assert spec["entrypoint"] == "cd /kdscale && exec python -m launcher run recipe.yaml --out /shared/runs/quickstart"
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["PYTHONPATH"] == "/kdscale"
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"].get("workerGroupSpecs", [])]
    assert len(groups) == (2 if int(workers) else 1)
    assert groups[-1]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    for group in groups:
        pod = group["template"]["spec"]
        mounted = {volume["name"] for volume in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        (own,) = [volume["configMap"] for volume in pod["volumes"] if "configMap" in volume]
        assert own["name"] == sent["metadata"]["name"]
        assert {item["key"] for item in own["items"]} == set(sent["data"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "add --dry-run"),
        (("--dry-run", "--memory-per-worker", "lots"), "is no quantity of Kubernetes"),
        (("--dry-run", "--workers", "-1"), "are 0 or more"),
        (("--dry-run", "--mount", "shared"), "is no absolute path"),
        (("--dry-run", "--claim", "My Runs"), "--claim My Runs: is no name of Kubernetes"),
        (("--dry-run", "--namespace", "Team"), "--namespace Team: is no name of Kubernetes"),
        (("--dry-run", "--image", "me/kd scale"), "is no name of an image"),
        (("--dry-run", "--out", "/home/me/run"), "give a path below /shared"),
        (("--dry-run", "--out", "/shared/../run"), "give a path below /shared"),
        (("--dry-run", "--out", "runs/mine"), "give a path below /shared"),
        (("--dry-run", "teachers.count=1"), "come last, after --"),
    ],
)
def test_what_kubernetes_would_not_take_is_a_sentence(words: tuple[str, ...], said: str) -> None:
    done = kdscale("submit", "kuberay", QUICK, "--image", "i", "--claim", "c", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_run_in_a_bucket_lies_beside_the_claim() -> None:
    words = ("--image", "i", "--claim", "c", "--dry-run", "--out", "s3://bucket/runs/mine")
    assert "--out s3://bucket/runs/mine" in kdscale("submit", "kuberay", QUICK, *words).stdout


def test_names_are_made_for_kubernetes() -> None:
    assert kuberay.name("My_Recipe.v2") == "my-recipe-v2"
    assert len(kuberay.name("x" * 80)) <= 40


def test_too_much_for_a_config_map_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "big.py").write_text("#" * 1_000_000)
    wanted = kuberay.Wanted(name="r", image="i", claim="c", mount="/shared", entrypoint="x")
    with pytest.raises(UserError, match="do not fit into a ConfigMap"):
        kuberay.render(wanted, tmp_path)


def test_the_manifest_is_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: r\n")
    wanted = kuberay.Wanted(name="r", image="i", claim="c", mount="/shared", entrypoint="x")
    assert kuberay.render(wanted, tmp_path) == kuberay.render(wanted, tmp_path)
    assert json.dumps(kuberay.ray_job(wanted, tmp_path))
