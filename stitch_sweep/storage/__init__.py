"""The experiment folder: file names, atomic writes, the ledger, checkpoints and manifests."""
