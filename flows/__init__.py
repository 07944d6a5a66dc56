"""Prefect flows: what runs when, fan-out and collecting."""
