"""The configs: `default`, and others that change some of its fields."""
