"""`ksm-node`: the kernel layer by hand, for a person with root on a node."""
