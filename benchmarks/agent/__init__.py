"""The agent measured on one node: its pods are real containers, its kubelet is this program."""
