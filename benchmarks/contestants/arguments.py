"""The arguments that `benchmarks.compare` gives to every peer."""

import argparse
from pathlib import Path


def create_parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of the dataset's file, the folder to write to, and the seed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    return parser
