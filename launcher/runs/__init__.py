"""A run, from its first entry in the ledger to its last."""
