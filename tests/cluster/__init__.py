"""Public interfaces of a real cluster, judged by the truth in /proc and /sys."""
