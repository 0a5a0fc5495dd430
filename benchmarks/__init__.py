"""What the trainer costs, against its peers and the machine's limits: see README.md."""
