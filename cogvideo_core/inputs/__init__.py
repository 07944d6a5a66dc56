"""From a folder or manifest to clip records, and from a record to its file.

Outsiders use `sources.read_clips`, `clip_files.fetch` and `places`.
"""
