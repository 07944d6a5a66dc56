"""What tells good edits from bad ones: judges, which give named scores, and the policy, which decides by them.

Outsiders use `judges.loaded`, `judges.Judges.scores` and `policy` (decide, fit). Judges are pure: frames and prompts go
in, numbers come out.
"""
