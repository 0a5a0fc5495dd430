"""Runs a command of the installed package: `mnist-jax COMMAND ...`, or `python -m mnist_jax`.

    mnist-jax train|evaluate|predict|demo|export [FLAGS]

`mnist-jax COMMAND --help` lists the flags of a command.
"""

import runpy
import sys

_COMMANDS = ("train", "evaluate", "predict", "demo", "export")


def main() -> None:
    """Runs the command that the first argument names."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in ("-h", "--help"):
        print((__doc__ or "").strip())
    elif command in _COMMANDS:
        del sys.argv[1]
        runpy.run_module(f"mnist_jax.{command}", run_name="__main__", alter_sys=True)
    else:
        choices = ", ".join(_COMMANDS)
        print(f"Error: command: {command!r} is none of {choices}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
