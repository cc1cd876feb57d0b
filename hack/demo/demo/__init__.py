"""The demo: real pods on a real cluster, a policy, and the memory that it gives back."""
