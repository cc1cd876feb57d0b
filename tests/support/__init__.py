"""What several tiers share. Reads the kernel by itself: a test trusts no code that it judges."""
