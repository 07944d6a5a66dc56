"""What people load and look at: rows, the collected dataset, tables, outcomes, the gallery.

Outsiders use `tables.collect_run`, `outcomes.Records` and `contact_sheet`.
"""
