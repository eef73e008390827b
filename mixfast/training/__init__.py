"""Training: batches from a plan, one readable loop, schedules, checkpoints that resume bit for bit, run directories."""
