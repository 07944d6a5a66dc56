"""The metrics of video editing benchmarks, each by its published definition and under its published name.

Outsiders use `measure.measured`, `samples.Sample`, `samples.Question` and `table.METRICS`, which says of each metric
what it is, where its definition stands, which way is better and what it needs. `settings/metric_specs.py` names the
models.
"""
