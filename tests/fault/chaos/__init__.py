"""Random clients and random faults on a cluster of real processes, and what must hold afterwards. See README.md, and `run`."""
