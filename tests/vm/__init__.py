"""The vm tier: tests of the kernel tier on kernels that this machine does not run."""
