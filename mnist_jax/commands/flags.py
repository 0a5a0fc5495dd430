"""The flags of several commands; each command declares those that it takes as key flags."""

from absl import flags

WORKDIR = flags.DEFINE_string(
    "workdir",
    "",
    "The run's folder. train creates it, or resumes its run; by default it is "
    "runs/<config name>/<YYYYMMDD-HHMMSS>.",
)
STEP = flags.DEFINE_string("step", "latest", "latest, best (by validation), or a number.")
MEMBER = flags.DEFINE_integer("member", None, "One of several seeds, from 0; else all.")
JSON = flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
