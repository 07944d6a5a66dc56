"""What starts the project in containers and clusters, as far as it can be checked without a daemon or a cluster."""

from __future__ import annotations

import asyncio
import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from yamllint import linter
from yamllint.config import YamlLintConfig

ROOT = Path(__file__).parents[1]
DEPLOYMENTS = ROOT / "deployments"
KUBERNETES = DEPLOYMENTS / "kubernetes"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
IMAGE = f"cogvideo-edit:{PROJECT['version']}"
LINT = YamlLintConfig("{extends: default, rules: {document-start: disable, line-length: {max: 125}}}")
SECRET = re.compile(r"PASSWORD|AUTH_STRING|SECRET_|TOKEN|ACCESS_KEY|API_KEY")
REFERENCE = re.compile(r"\$\{[A-Z_]+:\?[^}]+\}")
Objects = list[dict[str, Any]]


def tracked() -> set[str]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return set(listing.split("\0")) - {""}


def yaml_files() -> list[Path]:
    return sorted(ROOT / name for name in tracked() if name.startswith("deployments/") and name.endswith(".yaml"))


@pytest.mark.parametrize("path", yaml_files(), ids=lambda path: path.name)
def test_yaml_is_well_written(path: Path) -> None:
    """yamllint finds nothing: no key twice, no odd indentation, no line over 125 characters."""
    assert [str(problem) for problem in linter.run(path.read_text("utf-8"), LINT)] == []


def test_yaml_that_is_not_would_be_seen() -> None:
    """A key given twice is reported."""
    assert list(linter.run("a: 1\na: 2\n", LINT))


# Compose


def compose(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOYMENTS / name).read_text("utf-8"))


def services(file: dict[str, Any]) -> dict[str, Any]:
    return file["services"]


def exposed(file: dict[str, Any]) -> list[str]:
    """Published ports that other machines reach."""
    ports = [str(port) for service in services(file).values() for port in service.get("ports", [])]
    return [port for port in ports if not port.startswith("127.0.0.1:")]


def written_secrets(file: dict[str, Any]) -> list[str]:
    """Names of variables that look like secrets and whose value is anything but a required reference."""
    variables = [pair for service in services(file).values() for pair in service.get("environment", {}).items()]
    return [name for name, value in variables if SECRET.search(name) and not REFERENCE.fullmatch(str(value))]


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_files_keep_to_the_specification(name: str) -> None:
    """They validate against the compose specification's own schema."""
    jsonschema.validate(compose(name), get_builtin_schema("vendor.compose-spec"))


def test_compose_publishes_on_loopback_and_writes_no_password() -> None:
    """Every port is this machine's alone, and every secret comes from outside, or the start is refused."""
    file = compose("compose.yaml")
    assert set(services(file)) >= {"database", "server", "setup", "worker", "gallery"}
    assert sum(len(service.get("ports", [])) for service in services(file).values()) == 2
    assert exposed(file) == [] and written_secrets(file) == []


def test_an_open_port_and_a_written_password_would_be_seen() -> None:
    """The two readers above find both in a made-up file, and a reference with a default too."""
    environment = {"POSTGRES_PASSWORD": "hunter2", "PREFECT_API_AUTH_STRING": "${AUTH:-admin:pass}", "HOST": "x"}
    file = {"services": {"server": {"ports": ["4200:4200", "127.0.0.1:1:1"], "environment": environment}}}
    assert exposed(file) == ["4200:4200"]
    assert written_secrets(file) == ["POSTGRES_PASSWORD", "PREFECT_API_AUTH_STRING"]


def test_compose_names_what_there_is() -> None:
    """Services have an image, our own are hardened, and what they depend on, mount and join is declared."""
    file = compose("compose.yaml")
    for service in services(file).values():
        assert service["image"] == IMAGE or re.fullmatch(r"[a-z/-]+:\d[\w.-]*", service["image"])
        assert set(service.get("depends_on", {})) <= set(services(file))
        assert set(service.get("networks", ["default"])) <= set(file["networks"])
        volumes = {volume.split(":")[0] for volume in service.get("volumes", []) if volume[0] not in "/$"}
        assert volumes <= set(file["volumes"])
        if service["image"] == IMAGE:
            assert service["build"] == {"context": "..", "dockerfile": "deployments/Dockerfile"}
            assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert compose("compose.gpu.yaml")["services"]["worker"]["image"] == f"{IMAGE}-cuda"


# The image


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, rest) of a Dockerfile, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.M))
    return [(word.upper(), rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word]


def dockerfile() -> list[tuple[str, str]]:
    return instructions((DEPLOYMENTS / "Dockerfile").read_text("utf-8"))


def copied() -> list[str]:
    """What COPY takes from the repository."""
    found = [rest.split() for word, rest in dockerfile() if word == "COPY" and "--from=" not in rest]
    return [source for words in found for source in words[:-1]]


def lint(text: str) -> subprocess.CompletedProcess[str]:
    hadolint = Path(sys.executable).with_name("hadolint")  # where its wheel puts it
    return subprocess.run([str(hadolint), "-"], input=text, capture_output=True, text=True, check=False, timeout=60)


def test_the_dockerfile_is_well_written() -> None:
    """hadolint parses every instruction and finds nothing; it does in one that installs without a pin."""
    assert lint((DEPLOYMENTS / "Dockerfile").read_text("utf-8")).stdout == ""
    assert "DL3013" in lint("FROM python:3.11\nRUN pip install --no-cache-dir torch\n").stdout
    assert lint("FORM python:3.11\n").returncode != 0


def test_what_is_copied_is_tracked_and_let_through() -> None:
    """Each source of COPY is in the repository and not ignored by the builder; passwords are."""
    names = tracked()
    assert copied()
    missing = [
        source for source in copied() if source not in names and not any(n.startswith(f"{source}/") for n in names)
    ]
    assert missing == []
    lines = (DEPLOYMENTS / "Dockerfile.dockerignore").read_text("utf-8").split("\n")
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*" and rules[-2:] == ["**/*.env", "**/.env"]
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == set(copied())


def test_the_image_holds_what_the_package_is_built_from() -> None:
    """All that pyproject.toml names is copied, the extras exist, and the versions are the tested ones."""
    extras = next(rest for word, rest in dockerfile() if word == "ARG" and rest.startswith("EXTRAS="))
    assert {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]} <= set(copied())
    assert {"cogvideo_core", "tasks", "flows", "constraints.txt"} <= set(copied())
    assert set(extras.removeprefix("EXTRAS=").split(",")) <= set(PROJECT["optional-dependencies"])
    installs = [rest for word, rest in dockerfile() if word == "RUN" and "pip install" in rest]
    assert len(installs) == 2 and all("constraints.txt" in install for install in installs)


@pytest.mark.e2e
def test_the_package_is_built_from_what_the_image_copies(tmp_path: Path) -> None:
    """pip makes a wheel of the copied files alone, with the command line, the model and the pages in it."""
    listing = subprocess.run(["git", "ls-files", "-z", "--", *copied()], cwd=ROOT, capture_output=True, check=True)
    for name in listing.stdout.decode().strip("\0").split("\0"):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(tmp_path / "source")]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert inside >= {"flows/cli/main.py", "tasks/work.py", "cogvideo_core/shapes/model/model_index.json"}


def test_the_image_runs_without_rights_and_secrets() -> None:
    """It ends as an unprivileged user, and no argument or variable looks like a secret."""
    users = [rest for word, rest in dockerfile() if word == "USER"]
    assert users[-1] == "1000:1000"
    assert [rest for word, rest in dockerfile() if word in ("ARG", "ENV") and SECRET.search(rest)] == []
    assert {"HEALTHCHECK", "CMD"} <= {word for word, _ in dockerfile()}
    assert "ENTRYPOINT" not in {word for word, _ in dockerfile()}  # Prefect's Kubernetes worker gives a whole command


# Commands


def commands() -> list[list[str]]:
    """Every command that a file hands to a container, as a list of words."""
    found = [service["command"] for service in services(compose("compose.yaml")).values() if "command" in service]
    found += [json.loads(rest) for word, rest in dockerfile() if word == "CMD"]
    found += [container["command"] for _, container in containers() if "command" in container]
    scripts = [command[2] for command in found if command[0] == "sh"]
    lines = [line for script in scripts for line in re.sub(r"\\\n\s*", "", script).splitlines()]
    parts = [re.sub(r"(>/dev/null|#).*", "", part).split() for line in lines for part in line.split("||")]
    return [command for command in found if command[0] != "sh"] + parts


def unknown_to_prefect(command: list[str]) -> str:
    from prefect.cli._app import _app

    try:
        _app.parse_args(command[1:], exit_on_error=False, print_error=False)
    except Exception as error:  # cyclopts has a class for each mistake
        return str(error)
    return ""


def test_prefect_knows_its_commands() -> None:
    """Every option that the containers give Prefect's command line exists; a mistyped one would be seen."""
    ours = [command for command in commands() if command[0] == "prefect"]
    assert len(ours) >= 5
    assert [unknown_to_prefect(command) for command in ours if unknown_to_prefect(command)] == []
    assert unknown_to_prefect(["prefect", "worker", "start", "--poool", "cogvideo"])


def test_the_command_line_knows_its_commands() -> None:
    """What containers ask of cogvideo-edit exists, options included."""
    import typer

    from flows.cli.main import app

    group: Any = typer.main.get_command(app)
    ours = [command for command in commands() if command[0] == "cogvideo-edit"]
    assert len(ours) == 3
    for command in ours:
        group.commands[command[1]].make_context(command[1], command[2:])


def test_prefect_knows_its_settings() -> None:
    """Every PREFECT_ variable that a container or the image sets is a setting, which a mistyped one is not."""
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_settings_fields

    named = {name for service in services(compose("compose.yaml")).values() for name in service.get("environment", {})}
    named |= {variable["name"] for _, container in containers() for variable in container["env"]}
    named |= {name for word, rest in dockerfile() if word == "ENV" for name in re.findall(r"(\w+)=", rest)}
    ours = {name for name in named if name.startswith("PREFECT_") and not name.startswith("PREFECT_INTEGRATIONS_")}
    known = _get_settings_fields(Settings).keys()
    assert len(ours) > 12 and ours - known == set()
    assert "PREFECT_SERVER_API_AUTH_STRNG" not in known


def test_dask_knows_its_commands() -> None:
    """Scheduler and workers start with one process and two threads a GPU, no memory limit of Dask's own, no time to
    live, and no nanny, whose OMP_NUM_THREADS they have all the same."""
    import dask.config
    from distributed.cli.dask_scheduler import main as scheduler
    from distributed.cli.dask_worker import main as worker

    found = {command[1]: command[2:] for command in commands() if command[0] == "dask"}
    assert scheduler.make_context("scheduler", found["scheduler"]).params["port"] == "8786"
    options = worker.make_context("worker", found["worker"]).params
    assert (options["resources"], options["memory_limit"]) == ("GPU=1", "0")
    assert (options["n_workers"], options["nthreads"], options["nanny"]) == ("1", 2, False)
    (worker_env,) = (c["env"] for name, c in containers() if name == "dask-worker")
    assert {"name": "OMP_NUM_THREADS", "value": "1"} in worker_env
    settings = {v["name"]: v["value"] for name, c in containers() if name == "dask-scheduler" for v in c["env"]}
    read: dict[str, Any] = {}
    dask.config.refresh(config=read, env=settings)
    assert dask.config.get("distributed.scheduler.worker-ttl", config=read) is None
    assert dask.config.get("distributed.scheduler.allowed-failures", config=read) == 3


# Kubernetes


def manifests() -> Objects:
    files = sorted(KUBERNETES.glob("*.yaml"))
    return [found for path in files for found in yaml.safe_load_all(path.read_text("utf-8"))]


def containers(objects: Objects | None = None) -> list[tuple[str, dict[str, Any]]]:
    """(object, container) of all pods, those of our own image and others, what runs first included."""
    pods = [
        (found["metadata"]["name"], found["spec"]["template"]["spec"])
        for found in objects or manifests()
        if "template" in found.get("spec", {})
    ]
    return [(name, c) for name, pod in pods for c in [*pod.get("initContainers", []), *pod["containers"]]]


PLAIN = {"str": str, "int": int, "bool": bool}  # but a quantity of resources may be a number as well as a text


def problems(value: Any, kind: str, where: str = "") -> Iterator[str]:
    """Unknown and missing fields and wrong types, by the models of Kubernetes' own Python client."""
    from kubernetes_asyncio.client import models

    if inner := re.fullmatch(r"(list\[|dict\(str, )(.*)[\])]", kind):
        pairs = enumerate(value) if inner[1] == "list[" else value.items()
        for name, part in pairs:
            yield from problems(part, inner[2], f"{where}.{name}")
    elif model := getattr(models, kind, None):
        names = {name: attribute for attribute, name in model.attribute_map.items()}
        yield from (f"{where}.{name}: unknown to {kind}" for name in value if name not in names)
        for name in value.keys() & names.keys():
            yield from problems(value[name], model.openapi_types[names[name]], f"{where}.{name}")
        try:
            model(**{names[name]: value[name] for name in value if name in names})
        except ValueError as error:
            yield f"{where}: {error}"
    elif kind in PLAIN and type(value) is not PLAIN[kind] and not (type(value) is int and ".resources." in where):
        yield f"{where}: {value!r} is no {kind}"


MODELS = {
    "v1": "V1",
    "apps/v1": "V1",
    "batch/v1": "V1",
    "networking.k8s.io/v1": "V1",
    "rbac.authorization.k8s.io/v1": "V1",
}


@pytest.mark.parametrize("found", manifests(), ids=lambda found: f"{found['kind']}-{found['metadata']['name']}")
def test_kubernetes_objects_are_whole(found: dict[str, Any]) -> None:
    """No field is unknown, missing or of a wrong type; all but the namespace itself lie in the namespace."""
    assert list(problems(found, MODELS[found["apiVersion"]] + found["kind"])) == []
    assert found["kind"] == "Namespace" or found["metadata"]["namespace"] == "cogvideo"


def test_broken_objects_would_be_seen() -> None:
    """A mistyped field, a missing one and a number in the place of a text are three problems."""
    worker = deepcopy(next(found for found in manifests() if found["kind"] == "Deployment"))
    worker["spec"]["template"]["spec"]["containerz"] = worker["spec"]["template"]["spec"].pop("containers")
    worker["metadata"]["labels"] = {"app": 1}
    found = "; ".join(problems(worker, "V1Deployment"))
    assert "containerz: unknown to V1PodSpec" in found and "`containers`, must not be `None`" in found
    assert "labels.app: 1 is no str" in found and found.count(";") == 2


def test_kubernetes_names_what_there_is() -> None:
    """Services find pods, pods find claims and accounts, secrets are those of the README, rights are one role's."""
    objects = manifests()
    names = {
        kind: {found["metadata"]["name"] for found in objects if found["kind"] == kind}
        for kind in {f["kind"] for f in objects}
    }
    workloads = [found for found in objects if "template" in found.get("spec", {})]
    labels = [found["spec"]["template"]["metadata"]["labels"] for found in workloads]
    for service in (found for found in objects if found["kind"] == "Service"):
        assert service["spec"]["selector"] in labels
    for found in workloads:
        pod = found["spec"]["template"]["spec"]
        assert found["spec"]["selector"]["matchLabels"] == found["spec"]["template"]["metadata"]["labels"]
        assert pod.get("serviceAccountName", "job") in names["ServiceAccount"]
        claims = {
            v["persistentVolumeClaim"]["claimName"] for v in pod.get("volumes", []) if "persistentVolumeClaim" in v
        }
        assert claims <= names["PersistentVolumeClaim"]
        mounted = {m["name"] for c in pod["containers"] for m in c["volumeMounts"]}
        templates = {claim["metadata"]["name"] for claim in found["spec"].get("volumeClaimTemplates", [])}
        assert mounted == {volume["name"] for volume in pod.get("volumes", [])} | templates
    assert {"ClusterRole", "ClusterRoleBinding", "Secret"}.isdisjoint(names)


@pytest.mark.parametrize(("name", "container"), containers(), ids=lambda x: x if isinstance(x, str) else x["name"])
def test_containers_have_no_rights_and_no_written_secrets(name: str, container: dict[str, Any]) -> None:
    """None may gain privileges, each says what it needs, secrets are references; our own can't write to their image."""
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
    for variable in container["env"]:
        secret = SECRET.search(variable["name"]) and not variable["name"].startswith("PREFECT_INTEGRATIONS_")
        assert ("valueFrom" in variable) == bool(secret)
        assert not secret or variable["valueFrom"]["secretKeyRef"]["name"] == "cogvideo"
    if container["image"].startswith("cogvideo-edit:"):
        assert container["image"].removesuffix("-cuda") == IMAGE
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


# The work pool's template


def template() -> dict[str, Any]:
    return json.loads((KUBERNETES / "base-job-template.json").read_text("utf-8"))


def job_of(values: dict[str, Any]) -> dict[str, Any]:
    """The job that Prefect's worker would create for a flow run."""
    from prefect.client.schemas.objects import FlowRun
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    making = KubernetesWorkerJobConfiguration.from_template_and_values(template(), values, client=mock.AsyncMock())
    configuration = asyncio.run(making)
    configuration.prepare_for_flow_run(FlowRun(id=uuid4(), name="night run", flow_id=uuid4()))
    return configuration.job_manifest


def test_prefect_takes_the_template() -> None:
    """The server accepts it for a work pool, and its defaults fit its own schema of variables."""
    from prefect.server.schemas.actions import WorkPoolCreate
    from prefect.utilities.schema_tools.validation import validate

    WorkPoolCreate(name="cogvideo", type="kubernetes", base_job_template=template())
    schema = template()["variables"]
    defaults = {
        name: field["default"] for name, field in schema["properties"].items() if field.get("default") is not None
    }
    validate(defaults, schema, raise_on_error=True)


def test_the_template_is_prefect_s_own_with_additions() -> None:
    """Every variable and every field of the worker's default is there as it is, but for defaults; so a new version of
    Prefect that changes them is noticed."""
    from prefect_kubernetes.worker import KubernetesWorker

    default, ours = KubernetesWorker.get_default_base_job_template(), template()

    def lacking(theirs: Any, found: Any, where: str) -> list[str]:
        if isinstance(theirs, dict) and isinstance(found, dict):
            names = [name for name in theirs if not (name in ("default", "description") and where.count(".") <= 3)]
            return [x for name in names for x in lacking(theirs[name], found.get(name), f"{where}.{name}")]
        if isinstance(theirs, list) and theirs and isinstance(theirs[0], dict):
            return lacking(theirs[0], found[0], f"{where}[0]")
        return [] if theirs == found else [where]

    assert lacking(default, ours, "") == []
    added = ours["variables"]["properties"].keys() - default["variables"]["properties"].keys()
    assert added == {"gpus", "storage_secret", "models_claim"}


def test_a_job_has_one_gpu_and_the_models() -> None:
    """What the worker makes of the template is a job that Kubernetes knows: one GPU, the cache of models, no rights."""
    job = job_of({})
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == f"{IMAGE}-cuda" and container["args"] == ["prefect", "flow-run", "execute"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["volumes"][0] == {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}
    assert container["envFrom"] == [{"secretRef": {"name": "cogvideo-storage", "optional": True}}]
    assert job["metadata"]["namespace"] == "cogvideo" and pod["serviceAccountName"] == "job"
    assert job["spec"]["template"]["metadata"]["labels"]["dask-client"] == "true"
    for name in ("parallelism", "completions"):  # Prefect wants them here, where Kubernetes does not know them
        del pod[name]
    assert list(problems(job, "V1Job")) == []


def test_a_job_s_resources_can_be_changed() -> None:
    """Job variables of a deployment reach the job: no GPU for flows that only start others."""
    container = job_of({"gpus": 0, "memory_limit": "8Gi"})["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": 0}


def test_the_password_does_not_stand_in_a_job() -> None:
    """The worker hands its password on as a reference to the secret, by settings that its version knows."""
    from prefect_kubernetes.settings import KubernetesSettings

    (worker,) = [c for _, c in containers() if c["name"] == "worker" and "kubernetes" in c["command"]]
    plain = {variable["name"]: variable["value"] for variable in worker["env"] if "value" in variable}
    with mock.patch.dict("os.environ", plain):
        settings = KubernetesSettings()
    assert settings.worker.api_auth_string_secret_name == "cogvideo"
    assert settings.worker.api_auth_string_secret_key == "PREFECT_SERVER_API_AUTH_STRING"
    assert settings.observer.namespaces == {"cogvideo"}


# The page


def page() -> str:
    return (DEPLOYMENTS / "README.md").read_text("utf-8")


def sizing() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tests" / "benchmarks" / "sizing.py"))


def table_lines(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("| ")]


def test_the_page_tells_what_was_not_run() -> None:
    """Every file of the folder is named on it, and it says what was checked and what was not run."""
    names = {Path(name).name for name in tracked() if name.startswith("deployments/")} - {"README.md"}
    assert [name for name in sorted(names) if name not in page()] == []
    assert page().count("Not run here") == 2


def test_the_page_shows_what_disk_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """The table of trajectories on the page is the one that the command prints."""
    command = sizing()
    command["print_disk"]()
    lines = table_lines(capsys.readouterr().out)
    assert len(lines) > 8 and [line for line in lines if line not in page()] == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """All sizing tables on the page are those of tests/benchmarks/sizing.py."""
    sizing()["main"]()
    lines = table_lines(capsys.readouterr().out)
    assert len(lines) > 18 and [line for line in lines if line not in page()] == []
