"""Runs the command `train` in a checkout: python train.py --config configs/default.py."""

import sys

from mnist_jax.__main__ import main

if __name__ == "__main__":
    main([sys.argv[0], "train", *sys.argv[1:]])
