"""One file a task: what one training stage optimises."""
