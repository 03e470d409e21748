"""MLflow and the mirror: two followers of the ledger."""
