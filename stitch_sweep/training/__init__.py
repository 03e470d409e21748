"""The training of one stitch, and of assemblies of several; independent of Ray, Optuna and MLflow."""
