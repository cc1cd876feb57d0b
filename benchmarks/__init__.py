"""Measurements that docs/performance.md quotes: figures for people, never tests."""
