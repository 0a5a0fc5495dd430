"""Lists the configs that `mnist-jax train --config NAME` accepts.

    mnist-jax configs

Examples:
    mnist-jax configs
    mnist-jax configs | grep -A 1 cnn
    mnist-jax configs > configs.txt
"""

import ast

from mnist_jax.runtime import command


def main() -> None:
    """Prints what each is, and how long it takes to which accuracy."""
    for name, path in command.config_files().items():
        paragraphs = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")
        print(f"{name:10}{paragraphs[0]}")
        print(f"{'':10}{' '.join(paragraphs[-1].split())}")
