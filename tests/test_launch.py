"""The scripts in launch/: their syntax, and that train.py has the flags that they use."""

import re
import subprocess

import pytest
import yaml

from tests.conftest import ROOT

LAUNCH = ROOT / "launch"


@pytest.mark.parametrize("name", ["slurm.sbatch", "mpirun.sh"])
def test_the_shell_scripts_parse(name: str):
    subprocess.run(["bash", "-n", LAUNCH / name], check=True)


def test_arguments_before_the_dashes_are_mpiruns(tmp_path):
    mpirun = tmp_path / "mpirun"
    mpirun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    mpirun.chmod(0o755)

    def arguments_of_mpirun(*arguments: str) -> list[str]:
        command = ["/bin/bash", LAUNCH / "mpirun.sh", *arguments]
        path = f"{tmp_path}:/usr/bin:/bin"
        ended = subprocess.run(
            command, env={"PATH": path}, check=True, capture_output=True, text=True
        )
        return ended.stdout.split()

    train = ["python", "train.py", "--config", "configs/default.py", "--distributed"]
    assert arguments_of_mpirun("8", "--workdir=w") == [
        *("-n", "8", "--bind-to", "none", *train, "--workdir=w")
    ]
    assert arguments_of_mpirun("2", "--hostfile", "h", "--", "--workdir=w") == [
        *("-n", "2", "--bind-to", "none", "--hostfile", "h", *train, "--workdir=w")
    ]


def test_the_jobset_gives_each_pod_its_process_id():
    (jobset,) = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    (container,) = job["template"]["spec"]["containers"]
    command = container["command"]
    assert f"--num_processes={job['completions']}" in command
    # <jobset>-<job>-<job index>-<pod index>.<jobset>: the host name of process 0.
    name = jobset["metadata"]["name"]
    (port,) = container["ports"]
    host = f"{name}-{replicated['name']}-0-0.{name}"
    assert f"--coordinator_address={host}:{port['containerPort']}" in command
    assert "--process_id=$(PROCESS_ID)" in command
    assert container["env"][0]["name"] == "PROCESS_ID"


@pytest.mark.parametrize("name", ["slurm.sbatch", "mpirun.sh", "kubernetes.yaml"])
def test_train_has_the_flags(name: str):
    defined = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', (ROOT / "train.py").read_text()))
    script = "\n".join(
        line for line in (LAUNCH / name).read_text().splitlines() if "train.py" in line
    )
    if name == "kubernetes.yaml":
        (jobset,) = yaml.safe_load_all((LAUNCH / name).read_text())
        job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
        script = " ".join(job["template"]["spec"]["containers"][0]["command"])
    used = set(re.findall(r"--(\w+)", script.partition("train.py")[2]))
    assert {"config", "distributed"} <= used <= defined
