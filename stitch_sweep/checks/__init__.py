"""Checks that a result can be trusted, and recordings that explain why two runs differ."""
