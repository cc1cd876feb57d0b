"""The controller at scale: a real API server, thousands of nodes, and agents that are simulated."""
