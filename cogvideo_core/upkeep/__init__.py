"""Looking after what is stored: inspect, verify, remove, count.

Outsiders use `inspect` and `verify`.
"""
