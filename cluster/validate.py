"""Check every cluster file offline: `python -m cluster.validate [FILE ...]`; exit code 1 if one is refused.

KubeRay's files are checked by its schemas and the rules that only its controller knows; `ray up` files by Ray's own
validation; SkyPilot's by its package's schemas and what it cannot do on RunPod; shell and Slurm scripts by bash and
shellcheck; the Dockerfile by hadolint and what it copies; Grafana's dashboards by the metrics that exist. Each checker
returns sentences, none for a good file. Needs the extra `dev`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator

from ss4rec.errors import UsageError

HERE = Path(__file__).resolve().parent
RAY_JOB_NAME_LENGTH, RAY_SERVICE_NAME_LENGTH, RAY_CLUSTER_NAME_LENGTH = 47, 47, 53
KUBERNETES_KINDS = {
    "RayJob": "kuberay-v1.schema.json",
    "RayCluster": "kuberay-v1.schema.json",
    "RayService": "kuberay-v1.schema.json",
    "PersistentVolumeClaim": "core.schema.json",
    "NetworkPolicy": "core.schema.json",
    "CronJob": "core.schema.json",
}
AUTOSCALER_VARIABLE = "RAY_enable_autoscaler_v2"
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
HADOLINT_IGNORED = ("DL3008", "DL3013", "DL3003")
"""Versions of Debian's packages and of build tools are those of the base image; `cd` within one RUN leaves no layer."""
METRIC = re.compile(r"\b(?:ray|ss4rec_watch)_[a-z0-9_]+")
SBATCH_OPTION = re.compile(
    " --(job-name|nodes|ntasks-per-node|gpus-per-node|cpus-per-task|exclusive|time|signal|requeue|open-mode|output"
    r"|partition|account|mem|constraint)(=\S+)?"
)
JOB_COMMAND = re.compile(r"(?:python -m ray_jobs\.|ss4rec submit )(\w+)")


def check_file(path: Path) -> list[str]:
    """Return what is wrong with one cluster file, each as a sentence."""
    text = path.read_text()
    try:
        problems = [*checker_of(path)(path, text)]
    except yaml.YAMLError as error:
        return [f"no YAML: {error}"]
    return problems + _unknown_verbs(text)


def checker_of(path: Path) -> Callable[[Path, str], Iterator[str]]:
    """Return the checker of a file, by its suffix and folder."""
    by_suffix = {".sh": check_shell, ".sbatch": check_slurm, "": check_dockerfile}
    by_folder = {
        "kuberay": check_kuberay,
        "ray-up": check_ray_up,
        "skypilot": check_skypilot,
        "grafana": check_grafana,
        "workflow": check_workflow,
    }
    return by_suffix[path.suffix] if path.suffix in by_suffix else by_folder[path.parent.name]


def all_files() -> list[Path]:
    """Return every cluster file of this folder."""
    patterns = ("*.sh", "*/*.sh", "*/*.sbatch", "*/*.yaml", "grafana/*.json", "Dockerfile")
    return sorted(path for pattern in patterns for path in HERE.glob(pattern))


def check_kuberay(path: Path, text: str) -> Iterator[str]:
    """Check Kubernetes documents: schemas first, then what the schemas cannot say."""
    for document in yaml.safe_load_all(text):
        kind = document.get("kind")
        if kind not in KUBERNETES_KINDS:
            yield f"kind {kind}: not one of {', '.join(KUBERNETES_KINDS)}"
            continue
        problems = [*_against(KUBERNETES_KINDS[kind], document, kind)]
        rules = KIND_RULES.get(kind)
        yield from problems or (rules(document) if rules else ())


def _cron_rules(cron: dict[str, Any]) -> Iterator[str]:
    """Check that rounds do not overlap, and that one that was killed is tried again."""
    spec = cron["spec"]
    if spec.get("concurrencyPolicy") != "Forbid":
        yield "spec.concurrencyPolicy: Forbid, or a round would begin while another one trains, and be refused"
    if not spec["jobTemplate"]["spec"].get("backoffLimit"):
        yield "spec.jobTemplate.spec.backoffLimit: a killed round would wait for the next night"


def check_workflow(path: Path, text: str) -> Iterator[str]:
    """Check a scheduled workflow of a code host: when it runs, and that rounds do not overlap."""
    document = yaml.safe_load(text)
    when = document.get(True)  # YAML 1.1 takes the word `on` for true
    lines = when.get("schedule", [{}]) if isinstance(when, dict) else [{}]
    if not all(re.fullmatch(r"\S+( \S+){4}", line.get("cron", "")) for line in lines):
        yield "on.schedule: each line needs a cron of five fields"
    if "concurrency" not in document:
        yield "concurrency: without it a round may begin while another one trains, and be refused"


def _job_rules(job: dict[str, Any]) -> Iterator[str]:
    """Apply the controller's rules for a RayJob (KubeRay, `validation.go`)."""
    spec = job["spec"]
    yield from _name_rules(job, RAY_JOB_NAME_LENGTH)
    if ("rayClusterSpec" in spec) == ("clusterSelector" in spec):
        yield "spec: exactly one of rayClusterSpec and clusterSelector"
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        yield "spec.ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if "deletionStrategy" in spec and spec.get("shutdownAfterJobFinishes"):
        yield "spec.deletionStrategy excludes shutdownAfterJobFinishes"
    if spec.get("backoffLimit") and (
        "clusterSelector" in spec or spec.get("submissionMode") == "InteractiveMode"
    ):
        yield "spec.backoffLimit works neither with clusterSelector nor with InteractiveMode"
    yield from _retry_rules(spec)
    if spec.get("submissionMode") == "SidecarMode":
        excluded = ("submitterPodTemplate", "submitterConfig", "clusterSelector")
        yield from (f"spec.{name}: not with SidecarMode" for name in excluded if name in spec)
        head = spec.get("rayClusterSpec", {}).get("headGroupSpec", {}).get("template", {}).get("spec", {})
        if head.get("restartPolicy", "Never") != "Never":
            yield "head: SidecarMode wants restartPolicy Never"
    yield from _environment_problems(yaml.safe_load(spec.get("runtimeEnvYAML", "{}")))
    if "rayClusterSpec" in spec:
        yield from _cluster_rules(spec["rayClusterSpec"])


def _environment_problems(environment: Any) -> Iterator[str]:
    """Let Ray read a runtime environment; it only warns of keys that it does not know."""
    from ray.runtime_env import RuntimeEnv

    if not isinstance(environment, dict):
        yield "spec.runtimeEnvYAML is no mapping"
        return
    yield from (
        f"spec.runtimeEnvYAML: no field {n}" for n in sorted(set(environment) - RuntimeEnv.known_fields)
    )
    try:
        RuntimeEnv(**environment)
    except (TypeError, ValueError) as error:
        yield f"spec.runtimeEnvYAML: {error}"


def _retry_rules(spec: dict[str, Any]) -> Iterator[str]:
    """Check that a lost cluster is replaced, and that the job then goes on where its output is."""
    command = spec.get("entrypoint", "")
    verb = JOB_COMMAND.search(command)
    if not spec.get("backoffLimit"):
        yield "spec.backoffLimit: a lost cluster would be the end of the job"
    elif verb and verb[1] == "drift":
        if "fail_on=never" not in command:
            yield "drift with spec.backoffLimit needs --set fail_on=never: an alert's exit code would be retried"
    elif "--name" not in command:
        yield "spec.backoffLimit without --name in the entrypoint: a retry would start from nothing"


def _ray_cluster_rules(cluster: dict[str, Any]) -> Iterator[str]:
    """Apply the controller's rules for a RayCluster."""
    yield from _name_rules(cluster, RAY_CLUSTER_NAME_LENGTH)
    yield from _cluster_rules(cluster["spec"])


def _service_rules(service: dict[str, Any]) -> Iterator[str]:
    """Check a RayService: its cluster, and that its application is ours and is set up as `ss4rec serve` would be."""
    yield from _name_rules(service, RAY_SERVICE_NAME_LENGTH)
    yield from _cluster_rules(service["spec"]["rayClusterConfig"])
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    if not isinstance(config, dict) or not config.get("applications"):
        yield "spec.serveConfigV2 is no mapping with applications"
        return
    host = config.get("http_options", {}).get("host", "127.0.0.1")
    for application in config["applications"]:
        yield from _application_problems(application, host)


def _application_problems(application: dict[str, Any], host: str) -> Iterator[str]:
    """Check one application of a serveConfigV2."""
    from ss4rec.config import parse_section
    from ss4rec.serve.settings import ServeSettings, require_tokens

    path = application.get("import_path", "")
    module, _, function = path.partition(":")
    source = HERE.parent.joinpath(*module.split(".")).with_suffix(".py")
    if not source.exists() or f"def {function}(" not in source.read_text():
        yield f"import_path {path!r}: there is no such function"
        return
    try:
        settings = parse_section(ServeSettings, application.get("args", {}), "args")
        require_tokens(settings, host)
    except UsageError as error:
        yield str(error)
        return
    if "://" not in settings.store:
        yield f"store {settings.store}: pods of several machines need postgresql://"


KIND_RULES: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "RayJob": _job_rules,
    "RayCluster": _ray_cluster_rules,
    "RayService": _service_rules,
    "CronJob": _cron_rules,
}
"""What the schemas cannot say of each kind."""


def _name_rules(document: dict[str, Any], longest: int) -> Iterator[str]:
    name = document["metadata"].get("name", "")
    if not DNS_1035.fullmatch(name) or len(name) > longest:
        yield f"metadata.name {name!r}: a DNS-1035 label of at most {longest} characters"


def _cluster_rules(spec: dict[str, Any]) -> Iterator[str]:
    """Apply the controller's rules for a cluster's spec, and this project's (one mount, same limits, tolerations)."""
    head, groups = spec["headGroupSpec"], spec.get("workerGroupSpecs", [])
    token = spec.get("authOptions", {}).get("mode") == "token"
    version = tuple(int(part) for part in spec.get("rayVersion", "0.0").split(".")[:2])
    if token and version < (2, 52):
        yield f"rayVersion {spec.get('rayVersion')}: token authentication needs 2.52 or newer"
    if not token:
        yield "authOptions.mode is not token: anyone who reaches the ports could run code"
    pods = [("head", head), *((group["groupName"], group) for group in groups)]
    version_set = "version" in spec.get("autoscalerOptions", {})
    if version_set and AUTOSCALER_VARIABLE in {name for _, group in pods for name in _variables(group)}:
        yield f"autoscalerOptions.version and {AUTOSCALER_VARIABLE}: give one of them"
    mounts = {_storage_mount(group) for group in (head, *groups)}
    if len(mounts) != 1 or None in mounts:
        yield f"storage is not one claim mounted at one path in head and workers: {sorted(map(str, mounts))}"
    autoscaling = spec.get("enableInTreeAutoscaling", False)
    for label, group in pods:
        yield from _pod_rules(label, group, autoscaling)
    for group in groups:
        if not autoscaling and not {"minReplicas", "maxReplicas"} <= set(group):
            yield f"{group['groupName']}: without the autoscaler minReplicas and maxReplicas must both be there"
        least, most = group.get("minReplicas", 0), group.get("maxReplicas")
        if most is None or not 0 <= least <= group.get("replicas", 0) <= most:
            yield f"{group['groupName']}: 0 <= minReplicas <= replicas <= maxReplicas does not hold"


def _pod_rules(label: str, group: dict[str, Any], autoscaling: bool) -> Iterator[str]:
    """Check one group's pod template; the Ray container is the first."""
    pod = group["template"]["spec"]
    resources = pod["containers"][0].get("resources", {})
    if autoscaling and pod.get("restartPolicy", "Never") != "Never":
        yield f"{label}: autoscaler v2 wants restartPolicy Never"
    parameters = set(group.get("rayStartParams", {}))
    if "resources" in group and {"num-cpus", "num-gpus", "memory", "resources"} & parameters:
        yield f"{label}: give resources or rayStartParams, not both"
    if "labels" in parameters:
        yield f"{label}: rayStartParams.labels is not allowed; use the group's labels"
    if not pod["containers"][0]["name"].startswith("ray-"):
        yield f"{label}: the Ray container must be the first one (named ray-...)"
    if not resources.get("limits") or resources.get("limits") != resources.get("requests"):
        yield f"{label}: requests and limits must be there and equal"
    wants_gpu = "nvidia.com/gpu" in resources.get("limits", {})
    tolerated = any(item.get("key") == "nvidia.com/gpu" for item in pod.get("tolerations", []))
    if wants_gpu and not tolerated:
        yield f"{label}: asks for GPUs and does not tolerate the nvidia.com/gpu taint"
    if not pod.get("securityContext", {}).get("runAsNonRoot"):
        yield f"{label}: securityContext.runAsNonRoot is not true"


def _variables(group: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the environment variables of a group's containers."""
    for container in group["template"]["spec"]["containers"]:
        yield from (one["name"] for one in container.get("env", []))


def _storage_mount(group: dict[str, Any]) -> tuple[str, str] | None:
    """Return (claim, path) of the claim that a group's Ray container mounts."""
    pod = group["template"]["spec"]
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in pod.get("volumes", [])
        if "persistentVolumeClaim" in volume
    }
    mounts = pod["containers"][0].get("volumeMounts", [])
    return next(((claims[one["name"]], one["mountPath"]) for one in mounts if one["name"] in claims), None)


def check_ray_up(path: Path, text: str) -> Iterator[str]:
    """Check a `ray up` file as Ray's launcher does before it starts anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(yaml.safe_load(text)))
    except Exception as error:  # the launcher raises jsonschema's, ValueError and KeyError
        yield str(error).splitlines()[0]


def check_skypilot(path: Path, text: str) -> Iterator[str]:
    """Check a SkyPilot task's keys, its limits on RunPod, and its scripts."""
    task = yaml.safe_load(text)
    problems = [*_against("skypilot.schema.json", task)]
    yield from problems
    if problems:
        return
    if task["resources"].get("infra", "").startswith("runpod"):
        if task.get("num_nodes", 1) > 1:
            yield "num_nodes: SkyPilot on RunPod has one node"
        if any(isinstance(mount, dict) for mount in task.get("file_mounts", {}).values()):
            yield "file_mounts: SkyPilot on RunPod mounts no buckets"
    for key in ("setup", "run"):
        yield from (f"{key}: {problem}" for problem in _shell_problems(task.get(key, "")))


def check_slurm(path: Path, text: str) -> Iterator[str]:
    """Check a batch script: its #SBATCH lines, then the shell."""
    seen = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
    for line in re.findall(r"^#SBATCH(.*)$", text, re.MULTILINE):
        if not SBATCH_OPTION.fullmatch(line):
            yield f"#SBATCH{line}: unknown option"
    if seen.get("ntasks-per-node") != "1" or "exclusive" not in seen:
        yield "one Ray node a machine needs --ntasks-per-node=1 and --exclusive"
    yield from check_shell(path, text)


def check_shell(path: Path, text: str) -> Iterator[str]:
    """Check a shell script."""
    if "set -euo pipefail" not in text:
        yield "set -euo pipefail is missing"
    yield from _shell_problems(text)


def _shell_problems(text: str) -> Iterator[str]:
    """Let bash parse a script and shellcheck read it."""
    parsed = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    yield from parsed.stderr.splitlines()
    if not parsed.returncode:
        options = ["--shell=bash", "--format=gcc", "--severity=warning", "--exclude=SC1091", "-"]
        yield from _lint("shellcheck", options, text)


def _lint(tool: str, options: list[str], text: str) -> list[str]:
    """Run a linter of this environment on a text and return its lines.

    Raises:
        UsageError: if it is not installed: a file that nobody looked at is not good.
    """
    program = Path(sys.executable).with_name(tool)
    if not program.exists():
        raise UsageError(f"{program} is missing: pip install -c constraints.txt -e '.[dev]'")
    done = subprocess.run([str(program), *options], input=text, capture_output=True, text=True)
    return (done.stdout + done.stderr).splitlines() if done.returncode else []


def check_dockerfile(path: Path, text: str) -> Iterator[str]:
    """Let hadolint read it; check that copied files exist, stages are named, and the user is not root."""
    options = [
        "--no-color",
        "--failure-threshold=warning",
        *(f"--ignore={rule}" for rule in HADOLINT_IGNORED),
        "-",
    ]
    yield from _lint("hadolint", options, text)
    joined = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    stages: list[str] = []
    for instruction, rest in ([*line, ""][:2] for line in lines):
        words = rest.split()
        if instruction == "FROM" and "AS" in words:
            stages.append(words[-1])
        if instruction == "COPY":
            yield from _copy_problems(words, stages)
    users = [rest for instruction, *rest in lines if instruction == "USER"]
    if not users or users[-1][0] in ("root", "0"):
        yield "USER: the image would run as root"


def _copy_problems(words: list[str], stages: list[str]) -> Iterator[str]:
    """Check the sources of one COPY."""
    flags = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    if "from" in flags:
        if flags["from"] not in stages:
            yield f"COPY --from={flags['from']}: no such stage"
        return
    for source in [word for word in words if not word.startswith("--")][:-1]:
        if not (HERE.parent / source).exists():
            yield f"COPY {source}: not in the project"


def check_grafana(path: Path, text: str) -> Iterator[str]:
    """Check that each panel of a dashboard asks for metrics that this project or Ray exports."""
    try:
        board = json.loads(text)
        asked = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel["targets"]]
        variables = board["templating"]["list"]
        asked += [(one["name"], one["query"]) for one in variables if one["type"] == "query"]
    except (ValueError, KeyError, TypeError) as error:
        yield f"no dashboard: {type(error).__name__} {error}"
        return
    for title, expression in asked:
        names = METRIC.findall(expression)
        yield from (f"{title}: no metric {name}" for name in names if name not in known_metrics())
        if not names or expression.count("(") != expression.count(")"):
            yield f"{title}: {expression} is no query of a metric"


@cache
def known_metrics() -> frozenset[str]:
    """Return the metrics that a Ray node exports: our gauges, and those that Ray's own dashboards draw."""
    import ray.dashboard.modules.metrics.dashboards as dashboards

    from ss4rec.loop import tell
    from ss4rec.train.ray_gauges import GAUGES, PREFIX

    own = {f"ray_{PREFIX}{name}" for name in GAUGES} | {f"{tell.PREFIX}{name}" for name in tell.HELP}
    panels = Path(dashboards.__file__).parent.glob("*_panels.py")
    return frozenset(own.union(*(METRIC.findall(panel.read_text()) for panel in panels)))


def _unknown_verbs(text: str) -> list[str]:
    """Name commands of jobs that do not exist."""
    from ss4rec.cluster.submit import VERBS

    return [f"no such verb: {verb}" for verb in JOB_COMMAND.findall(text) if verb not in VERBS]


def _against(schema: str, document: Any, definition: str | None = None) -> Iterator[str]:
    """Yield what JSON Schema finds wrong, each with its path."""
    for error in _validator(schema, definition).iter_errors(document):
        where = ".".join(str(part) for part in error.absolute_path)
        yield f"{where or 'document'}: {error.message[:200]}"


@cache
def _validator(schema: str, definition: str | None) -> Draft7Validator:
    loaded = json.loads((HERE / "schemas" / schema).read_text())
    if definition is not None:
        loaded["$ref"] = f"#/$defs/{definition}"
    return Draft7Validator(loaded)


def main(arguments: list[str]) -> int:
    """Check the named files, or all; print a line each."""
    failed = 0
    for path in [Path(name) for name in arguments] or all_files():
        problems = check_file(path)
        failed += bool(problems)
        print(f"{path.name}: {'refused' if problems else 'ok'}", *problems, sep="\n  ")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
