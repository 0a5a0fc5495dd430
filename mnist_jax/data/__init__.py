"""Datasets by name or path: tensorflow-datasets and a cache of it, own files, embedded ones."""
