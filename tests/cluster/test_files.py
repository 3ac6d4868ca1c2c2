"""The files for real clusters, judged by the schemas of those who read them; none of them is reached."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.utils import canonicalize_name

from mmray.cli import app

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERNETES = "1.31"
DOCUMENTS = [
    (path.name, document)
    for path in sorted(CLUSTER.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if "apiVersion" in document
]
RAY_KINDS = ("RayJob", "RayCluster")


def ids(documents: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [f"{name}-{document['kind']}" for name, document in documents]


def of_ray(wanted: bool) -> list[tuple[str, dict[str, Any]]]:
    return [(name, each) for name, each in DOCUMENTS if (each["kind"] in RAY_KINDS) == wanted]


def strict(schema: Any) -> Any:
    """A schema that refuses keys which it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not open_ended:
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


def ray_clusters() -> list[tuple[str, dict[str, Any]]]:
    """(file, the RayCluster's spec) of every one, those of RayJobs too."""
    return [
        (name, document["spec"].get("rayClusterSpec", document["spec"])) for name, document in of_ray(True)
    ]


def pods() -> list[tuple[str, dict[str, Any]]]:
    """(file and group, pod template) of all Ray clusters."""
    found = []
    for name, spec in ray_clusters():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            found.append((f"{name}-{group.get('groupName', 'head')}", group["template"]))
    return found


@pytest.fixture(scope="module")
def definitions(shared_data: Path) -> dict[str, dict[str, Any]]:
    """{kind: its schema, made strict} of KubeRay."""
    found = {}
    for path in (shared_data / "kuberay").glob("*.yaml"):
        definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]
        (served,) = [each for each in definition["versions"] if each["name"] == "v1"]
        schema = served["schema"]["openAPIV3Schema"]
        del schema["properties"]["metadata"]  # Kubernetes' own
        schema["properties"] |= {"metadata": {"type": "object", "additionalProperties": {}}}
        found[definition["names"]["kind"]] = strict(schema)
    return found


@pytest.mark.parametrize(("name", "document"), of_ray(True), ids=ids(of_ray(True)))
def test_kuberay_takes_its_files(definitions, name, document):
    schema = definitions[document["kind"]]
    jsonschema.Draft202012Validator(schema).validate(document)
    with pytest.raises(jsonschema.ValidationError, match="idleTimeoutSecond"):
        jsonschema.Draft202012Validator(schema).validate(misspelt(document))


def misspelt(document: dict[str, Any]) -> dict[str, Any]:
    """The same with a key of a worker group that nobody knows."""
    copy = json.loads(json.dumps(document))
    spec = copy["spec"].get("rayClusterSpec", copy["spec"])
    spec["workerGroupSpecs"][0]["idleTimeoutSecond"] = 1
    return copy


@pytest.mark.parametrize(("name", "document"), of_ray(False), ids=ids(of_ray(False)))
def test_kubernetes_takes_its_own_kinds(name, document):
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize(("name", "template"), pods(), ids=[name for name, _ in pods()])
def test_kubernetes_takes_the_pods_and_they_are_locked_down(name, template):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", **template["metadata"]}}
    kubernetes_validate.validate({**pod, "spec": template["spec"]}, KUBERNETES, strict=True)
    spec = template["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for container in spec["containers"]:
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() <= volumes.keys()
        assert mounts["shm"] == "/dev/shm"
        shm, memory = (
            gibibytes(size)
            for size in (volumes["shm"]["emptyDir"]["sizeLimit"], container["resources"]["limits"]["memory"])
        )
        assert memory * 0.3 <= shm < memory / 2, "Ray's object store is 30 % of the memory"
        assert not [each for each in container.get("env", []) if "value" in each and "KEY" in each["name"]]


def gibibytes(quantity: str) -> float:
    assert quantity.endswith("Gi")
    return float(quantity.removesuffix("Gi"))


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_ray_up_takes_its_files(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["available_node_types"]["head"]["resources"]["CPU"] == 0
    started = [*prepared["head_start_ray_commands"], *prepared["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in line for line in started if "ray start" in line)
    assert not any("0.0.0.0" in line for line in started), "the dashboard is for the head alone"


def test_one_version_of_ray_and_of_torch_everywhere():
    import ray

    project = (ROOT / "pyproject.toml").read_text()
    pinned = re.search(r'"ray\[[\w,]+\]==([\d.]+)\.\*"', project)
    assert pinned
    assert ray.__version__.startswith(f"{pinned[1]}.")
    for name, spec in ray_clusters():
        assert spec["rayVersion"] == ray.__version__, name
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    for package in ("torch", "torchvision", "torchaudio"):
        version = re.search(rf'"{package}(==[\d.]+\*)"', project)
        assert version
        assert f"{package}{version[1]}" in dockerfile


def test_one_name_of_the_image_everywhere():
    images = {
        match
        for path in CLUSTER.glob("*.yaml")
        for match in re.findall(r"registry\.example\.com/([\w:.\-]+)", path.read_text())
    }
    assert {image.rpartition("-")[0] for image in images} == {"mmray:0.2.0"}
    assert {image.rpartition("-")[2] for image in images} == {"cpu", "gpu"}
    built = re.findall(r"^FROM \S+ AS (\w+)$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    assert {"cpu", "gpu"} <= set(built)


def test_the_image_is_nobody_s_and_holds_no_secret():
    text = (CLUSTER / "Dockerfile").read_text()
    for stage in ("cpu", "gpu"):
        body = re.search(rf"^FROM \w+ AS {stage}$(.*?)(?=^FROM|\Z)", text, re.MULTILINE | re.DOTALL)
        assert body
        assert "USER ray" in body[1]
    assert not re.search(r"(?i)(SECRET|PASSWORD|ACCESS_KEY|AUTH_TOKEN)\s*=", text)
    for source in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name


@pytest.mark.endurance
def test_the_install_line_of_the_image_finds_all_it_names(tmp_path):
    """In a clean environment; what is found is not fetched."""
    (line,) = re.findall(r"^RUN (pip install -c .*)$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "clean")], check=True)
    command = line.replace(
        "pip install", f"{tmp_path}/clean/bin/python -m pip install --dry-run -q --report -"
    )
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {canonicalize_name(each["metadata"]["name"]) for each in json.loads(done.stdout)["install"]}
    assert {"mmray", "ray", "torch", "torchcodec", "h5py", "pillow-heif", "boto3"} <= found


# ------------------------------------------------------------------------------------ rights


def test_the_policy_gives_what_a_run_needs_and_no_more():
    policy = json.loads((CLUSTER / "s3_policy.json").read_text())
    allowed = [each for each in policy["Statement"] if each["Effect"] == "Allow"]
    actions = {action: each["Resource"] for each in allowed for action in each["Action"]}
    assert set(actions) == {
        "s3:ListBucket",
        "s3:GetBucketLocation",
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload",
    }
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert actions[action] == ["arn:aws:s3:::OUTPUT_BUCKET/mmray/*"]
    assert not any("*" in action for action in actions)


# ------------------------------------------------------------------------------------ again


def again(tmp_path: Path, codes: str, *options: str) -> tuple[int, int]:
    """(exit code, tries) of `again` with a command that ends with these codes, one after another."""
    tries = tmp_path / "tries"
    tries.write_text("")
    command = f'echo >> {tries}; set -- {codes}; shift $(($(wc -l < {tries}) - 1)); exit "$1"'
    done = subprocess.run(
        ["bash", str(CLUSTER / "again.sh"), *options, "--", "bash", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, len(tries.read_text().splitlines())


def test_only_what_may_pass_is_tried_again(tmp_path):
    assert again(tmp_path, "75 75 0", "5", "0") == (0, 3)
    assert again(tmp_path, "75 1 0", "5", "0") == (1, 2)
    assert again(tmp_path, "2 0") == (2, 1)
    assert again(tmp_path, "75 75 75 0", "3", "0") == (75, 3)


def test_a_signal_ends_the_command_and_what_it_ended_with_is_returned():
    command = "trap 'exit 143' TERM; echo up; while :; do sleep 0.1; done"
    process = subprocess.Popen(
        ["bash", str(CLUSTER / "again.sh"), "--", "bash", "-c", command], stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    process.terminate()
    assert process.wait(timeout=60) == 143


def test_a_signal_between_two_tries_ends_them():
    process = subprocess.Popen(
        ["bash", str(CLUSTER / "again.sh"), "9", "3600", "--", "bash", "-c", "exit 75"],
        stderr=subprocess.PIPE,
    )
    assert process.stderr
    assert b"try 1 of 9" in process.stderr.readline()
    process.terminate()
    assert process.wait(timeout=60) == 75


# ------------------------------------------------------------------------------------ what the files call


def test_the_commands_of_the_files_are_commands_of_mmray():
    """Of every `mmray …` in the folder: the command and its options are there."""
    known = {
        name: {option for each in command.params for option in each.opts}
        for name, command in app.commands.items()
    }
    told = 0
    for path in sorted(CLUSTER.iterdir()):
        if not path.is_file():
            continue
        for line in re.findall(r"(?:^|[\s`])mmray ((?:[a-z][\w\-]*)(?: [^\n`#&|;]*)?)", path.read_text()):
            command, *words = line.split()
            if command not in known:
                continue
            told += 1
            for option in (word.partition("=")[0] for word in words if word.startswith("-")):
                assert option in known[command] | {"--help"}, f"{path.name}: mmray {line}"
    assert told >= 8
