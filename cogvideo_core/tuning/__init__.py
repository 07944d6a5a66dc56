"""Finds a recipe for a model and a person's own clips, by the judge alone: clips are inverted once, a search tries
recipes on more and more of them, and the best is written down with how sure it is. Outsiders use `search` and `report`.
"""
