"""The generated pages of docs/reference/: one module per page or group of pages."""
