"""Parsing of train.py's command line within the test's process."""

import sys
import warnings
from collections.abc import Callable

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from mnist_jax.runtime import command


def main() -> None:
    """Of the command that `parse` parses: it takes no positional arguments."""


@pytest.fixture
def parse(monkeypatch) -> Callable[..., ConfigDict]:
    """Returns the config that `train.py` has after it was started with the arguments."""

    def parse(*arguments: str) -> ConfigDict:
        argv = ["train.py", *arguments]
        own = flags.FlagValues()
        config_flags.DEFINE_config_file(
            "config",
            lock_config=False,
            accept_new_attributes=True,
            flag_values=own,
            sys_argv=argv,
        )
        flags.DEFINE_string("workdir", None, "", flag_values=own)
        flags.DEFINE_integer("verbosity", 0, "", flag_values=own)
        monkeypatch.setattr(flags, "FLAGS", own)
        monkeypatch.delitem(sys.modules, "config_config", raising=False)  # The file's module.
        with warnings.catch_warnings():  # ml_collections loads the file by a deprecated method.
            warnings.simplefilter("ignore", DeprecationWarning)
            command.parse_flags(argv, sys.modules[__name__])
        config, _ = command.read_config()
        return config

    return parse
