"""The work written down before it starts, and what it will cost.

Outsiders use `plan.planned_clips`, `tables` (write_plan, read_batches) and `estimate`.
"""
