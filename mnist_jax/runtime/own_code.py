"""A user's own code: loaded by the name that the user gives, known by what a run records."""

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
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
    folder, module_name = Path.cwd(), place
    if place.endswith(".py"):
        folder, module_name = file.parent, f"mnist_jax_own_{file.stem}"
    sys.path.insert(0, str(folder))
    try:
        if place.endswith(".py"):
            file.stat()
            found = importlib.util.spec_from_file_location(module_name, file)
            assert found
            assert found.loader
            module = importlib.util.module_from_spec(found)
            sys.modules[module_name] = module  # `dataclasses` looks there.
            found.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
        return getattr(module, name)
    except (Exception, SystemExit) as error:
        problem = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{field}: {spec}: {problem}; give FILE.py:NAME") from error
    finally:
        sys.path.remove(str(folder))


def absolute(spec: str) -> str:
    """Returns `FILE.py:NAME` with the file's absolute path, any other text as it is."""
    place, _, name = spec.rpartition(":")
    return f"{Path(place).expanduser().absolute()}:{name}" if place.endswith(".py") else spec


def describe(value: object, spec: str = "") -> dict[str, str]:
    """Returns what a run records of an object: its name, `repr`, and its file's SHA-256.

    The name is the spec that loaded it; without one, `MODULE:CLASS`. A `repr`'s addresses are
    left out; the digest is "" where there is no file, as in a notebook.
    """
    kind = type(value)
    text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(value).split()))
    try:
        source = Path(inspect.getfile(kind)).read_bytes()
    except (TypeError, OSError):
        source = b""
    digest = hashlib.sha256(source).hexdigest() if source else ""
    name = absolute(spec) if ":" in spec else f"{kind.__module__}:{kind.__qualname__}"
    return {"name": name, "repr": text, "sha256": digest}


def warn_if_changed(kind: str, here: Mapping[str, str], there: Mapping[str, str]) -> None:
    """Prints a warning if an object's `repr` or source is not what a run recorded."""
    changed = [what for what in ("repr", "sha256") if here[what] != there[what]]
    if changed:
        problem = (
            f"not the run's, which was {there['name']}: its {' and '.join(changed)} differs"
        )
        terminal.print_warning(f"WARNING: {kind}: {here['name']} is {problem}")
