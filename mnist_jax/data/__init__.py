"""Datasets by name: arrays in memory, tensorflow-datasets, and a cache of decoded arrays."""
