"""What is done to one clip: encode, invert, judge the inversion, edit; and what became of it.

Outsiders use `encode.encode_clip`, `trajectory.invert_clip`, `edit.edit_clip`, `work.Work`, `units` (keys) and
`failures`.
"""
