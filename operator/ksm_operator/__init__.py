"""Kubernetes operator for kernel samepage merging (KSM)."""
