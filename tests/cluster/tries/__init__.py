"""Writes to try against admission and RBAC: who, what, and who refuses it in which words."""
