"""launch/kubernetes.yaml: against the API's schema, and that its parts fit together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT

SCHEMA = yaml.safe_load((Path(__file__).parent / "jobset_schema.yaml").read_text())


@pytest.fixture
def jobset() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "launch" / "kubernetes.yaml").read_text())


def job_of(jobset: dict[str, Any]) -> dict[str, Any]:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def container_of(jobset: dict[str, Any]) -> dict[str, Any]:
    (container,) = job_of(jobset)["template"]["spec"]["containers"]
    return container


def test_the_api_accepts_it(jobset):
    jsonschema.validate(jobset, SCHEMA)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda jobset: jobset["spec"].update(failurePolicies={}),
        lambda jobset: jobset["spec"]["failurePolicy"]["rules"][0].pop("name"),
        lambda jobset: jobset["spec"]["failurePolicy"]["rules"][0].update(action="FailJob"),
        lambda jobset: job_of(jobset).update(backofLimit=0),
        lambda jobset: job_of(jobset)["podFailurePolicy"]["rules"][0].update(action="Fail"),
        lambda jobset: job_of(jobset)["template"]["spec"].update(restartPolicy="OnFailure"),
        lambda jobset: container_of(jobset)["resources"]["limits"].update(memory="32 GB"),
        lambda jobset: container_of(jobset)["command"].append(2),
    ],
)
def test_the_schema_finds_a_mistake(mistake: Callable[[dict[str, Any]], None], jobset):
    mistake(jobset)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(jobset, SCHEMA)


def test_each_pod_has_its_process_id(jobset):
    job, container = job_of(jobset), container_of(jobset)
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    assert f"--num_processes={job['completions']}" in container["command"]
    # <jobset>-<job>-<job index>-<pod index>.<jobset>: the host name of process 0.
    name = jobset["metadata"]["name"]
    (replicated,) = jobset["spec"]["replicatedJobs"]
    (port,) = container["ports"]
    host = f"{name}-{replicated['name']}-0-0.{name}"
    assert f"--coordinator_address={host}:{port['containerPort']}" in container["command"]
    assert "--process_id=$(PROCESS_ID)" in container["command"]
    assert container["env"][0]["name"] == "PROCESS_ID"


def test_wrong_input_fails_it_and_an_eviction_does_not_count(jobset):
    job = job_of(jobset)
    actions = {
        code: rule["action"]
        for rule in job["podFailurePolicy"]["rules"]
        for code in rule["onExitCodes"]["values"]
    }
    assert actions == {2: "FailJob", 143: "Ignore"}
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "FailJobSet"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    # All else ends the job, for the JobSet to restart it whole.
    assert job["backoffLimit"] == 0
    names = {rule["onExitCodes"]["containerName"] for rule in job["podFailurePolicy"]["rules"]}
    assert names == {container_of(jobset)["name"]}


def test_what_is_mounted_is_there(jobset):
    container = container_of(jobset)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {
        volume.pop("name"): volume for volume in job_of(jobset)["template"]["spec"]["volumes"]
    }
    assert volumes.keys() == mounts.keys()
    assert mounts["shm"] == "/dev/shm"
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    assert {"name": "TFDS_DATA_DIR", "value": mounts["data"]} in container["env"]
