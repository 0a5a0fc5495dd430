"""Trains networks with JAX and Flax, evaluates them and uses them.

    mnist-jax COMMAND [FLAGS]

`mnist-jax COMMAND --help` lists the flags of a command. The commands:
"""

import importlib
import sys
from collections.abc import Sequence

from mnist_jax.runtime import command
from mnist_jax.runtime.errors import UserError

_COMMANDS = ("train", "evaluate", "predict", "demo", "export", "runs", "configs")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command that the first argument names; by default the process' arguments."""
    program, *arguments = argv or sys.argv
    name = arguments[0] if arguments else ""
    with command.errors_in_one_line():
        if name in _COMMANDS:
            module = importlib.import_module(f"mnist_jax.commands.{name}")
            command.run(module, [program, *arguments[1:]])
        elif name in ("-h", "--help", ""):
            command.print_help(_create_help())
            if not name:
                raise UserError("command: missing; give one of those above")
        else:
            raise UserError(f"command: {name!r} is none of {', '.join(_COMMANDS)}")


def _create_help() -> str:
    text = __doc__ or ""
    for name in _COMMANDS:
        module = importlib.import_module(f"mnist_jax.commands.{name}")
        text += f"    {name:10}{module.__doc__}".partition("\n")[0] + "\n"
    return text.rstrip()


if __name__ == "__main__":
    main()
