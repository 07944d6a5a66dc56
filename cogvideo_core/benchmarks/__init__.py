"""Public benchmarks of video editing: their folders as manifest rows, edits laid out for their evaluators, and scores.

Outsiders use `registry.BENCHMARKS`, `prepare.prepare`, `layout.lay_out` and `result.score`.
"""
