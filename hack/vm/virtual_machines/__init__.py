"""Emulated machines with Debian's kernels, each up for one command."""
