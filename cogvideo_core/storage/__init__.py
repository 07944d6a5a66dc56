"""Bytes that last: addresses, the ledger of committed units, and trajectories in shards.

Outsiders use `ledger.Ledger`, `trajectories` (write_trajectory, open_trajectory) and `uris`.
"""
