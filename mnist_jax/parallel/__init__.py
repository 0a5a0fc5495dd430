"""The devices of one process, and the processes of one job."""
