"""A real single-machine Kubernetes cluster, built from pinned Go modules and nothing else."""
