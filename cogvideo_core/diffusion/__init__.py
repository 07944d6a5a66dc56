"""The method as tensor mathematics: noise schedule, DDIM, inversion, guidance, attention over a reference, editing.

Functions take tensors and a callable velocity; models, files and devices belong elsewhere.
"""
