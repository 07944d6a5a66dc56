"""The plan of a run, written before it starts, and its cost.

Outsiders use `plan.planned_clips`, `tables` (write_plan, read_batches) and `estimate`.
"""
