"""Copies of a run's edits in the formats that training code reads: tar shards, Parquet, folders with lists.

Outsiders use `export.export`, `spec.ExportSpec` and `hub.push`. A format is a class with the methods of
`formats.Format`.
"""
