"""A user's own code: loaded by the name that the user gives, known by what a run records."""

import contextlib
import hashlib
import importlib
import inspect
import os
import re
import sys
import types
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from mnist_jax.runtime import terminal
from mnist_jax.runtime.errors import UserError, first_line


def load(field: str, spec: str) -> Any:
    """Returns the object NAME of `FILE.py:NAME` or `package.module:NAME`.

    The code runs as a script does: its folder, or for a module the current one, is the first
    place of its imports.

    Raises:
      UserError: There is no such file or name, or the code raises an error.
    """
    place, _, name = spec.rpartition(":")
    file = Path(place).expanduser().absolute()
    is_file = place.endswith(".py")
    folder = str(file.parent if is_file else Path.cwd())
    sys.path.insert(0, folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # What it prints is no result.
            if not is_file:
                return getattr(importlib.import_module(place), name)
            module = types.ModuleType(f"mnist_jax_own_{file.stem}")
            module.__file__ = str(file)
            sys.modules[module.__name__] = module  # `dataclasses` looks there.
            SourceFileLoader(module.__name__, str(file)).exec_module(module)
            return getattr(module, name)
    except (Exception, SystemExit) as error:
        problem = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{field}: {spec}: {problem}; give FILE.py:NAME") from error
    finally:
        sys.path.remove(folder)


def describe(value: object, spec: str = "") -> dict[str, str]:
    """Returns what a run records of an object: its name, `repr`, and its files' SHA-256.

    The name is the spec that loaded it, with an absolute path; without one, `MODULE:CLASS`. A
    `repr`'s addresses are left out. The files are the spec's, and those of the object's classes
    in or below its folder; the digest is "" where there is none, as in a notebook.
    """
    kind, files = type(value), list[Path]()
    place, _, attribute = spec.rpartition(":")
    if place.endswith(".py"):
        place = os.path.normpath(Path(place).expanduser().absolute())
        files.append(Path(place))
    for base in kind.__mro__:
        with contextlib.suppress(TypeError, OSError):  # Built in, or of a notebook.
            files.append(Path(inspect.getfile(base)))
    own = sorted({file for file in files if file.is_relative_to(files[0].parent)})
    contents = [file.read_bytes() for file in own if file.exists()]
    sha256 = hashlib.sha256(b"".join(contents)).hexdigest() if contents else ""
    name = f"{place}:{attribute}" if place else f"{kind.__module__}:{kind.__qualname__}"
    text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(value).split()))
    return {"name": name, "repr": text, "sha256": sha256}


def warn_if_changed(kind: str, here: Mapping[str, str], there: Mapping[str, str]) -> None:
    """Prints a warning if an object's `repr` or source is not what a run recorded."""
    changed = [what for what in ("repr", "sha256") if here[what] != there[what]]
    if changed:
        problem = f"not the run's, {there['name']}: its {' and '.join(changed)} differs"
        terminal.print_warning(f"WARNING: {kind}: {here['name']} is {problem}")
