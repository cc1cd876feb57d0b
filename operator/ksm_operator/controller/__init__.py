"""The controller: which policy owns which node, and what all nodes together make of a policy.

`plan`, `nodes` and `status` are pure functions; `reconcile` is the one place that writes what
they decide, and only while `lease` is held. kopf and the watches only say that something changed.
"""
