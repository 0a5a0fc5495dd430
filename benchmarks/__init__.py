"""Measures the cost of the trainer and compares it with its peers; see README.md."""
