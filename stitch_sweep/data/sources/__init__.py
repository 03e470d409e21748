"""Where images come from: one module per data set, and the helpers that find its files."""
