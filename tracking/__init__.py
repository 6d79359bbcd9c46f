"""What it cost and what came out: ledger, MLflow, receipt, comparison."""
