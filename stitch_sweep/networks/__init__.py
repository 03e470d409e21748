"""Sender and receiver networks: families, external sources, cutting, the zoo, frozen copies, controls."""
