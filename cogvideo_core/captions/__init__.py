"""What is written about clips before a run: captions, target prompts, instructions, and the manifest that holds them.

Outsiders use `asking` (Job, check_specs), `describe.describe_clip`, `manifest` and `grammar.instruction_of`. Answers
of a model are untrusted text, and stored by what was asked, so that nothing is asked twice.
"""
