"""The configs: `default`, and others that derive from it by override."""
