"""What all of launch/ has in common."""

import re
import subprocess

import pytest

from tests.conftest import ROOT

LAUNCHERS = sorted((ROOT / "launch").iterdir())


@pytest.mark.parametrize("name", ["slurm.sbatch", "mpirun.sh"])
def test_the_shell_scripts_parse(name: str):
    subprocess.run(["bash", "-n", ROOT / "launch" / name], check=True)


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_the_flags_of_train(path):
    """They exist, and none may train on other data than asked for."""
    script = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    command = re.sub(r"(?s).*?train\.py(.*?)(env:.*|&\n.*|$)", r"\1", script)
    flags = re.findall(r"--([\w.]+)(=?)", command)
    source = (ROOT / "mnist_jax" / "commands" / "train.py").read_text()
    defined = [*re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source), "workdir"]
    used = {name for name, _ in flags}
    assert {"config", "distributed"} <= used <= {*defined, "config.fallback_dataset"}
    assert re.search(r"--config\.fallback_dataset=\s", command)
