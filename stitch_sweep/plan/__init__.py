"""From a configuration to studies and cells: validation, spaces, Optuna studies, estimates; no Ray."""
