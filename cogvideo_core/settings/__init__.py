"""What to do, as data: the groups of settings, recipes and presets, and their fingerprints.

Outsiders import the groups from `specs` and the presets from `presets`. Nothing here imports torch or diffusers.
"""
