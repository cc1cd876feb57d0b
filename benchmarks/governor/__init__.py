"""What ksmd's tuning is worth: memory kept for each CPU second, ours beside what others do."""
