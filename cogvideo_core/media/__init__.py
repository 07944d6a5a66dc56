"""Video files: what they say of themselves, their frames and sound, and measures of pixels.

Outsiders use `video` (probe, windows, decode, encode, poster), `tools.Limits` and `quality`. ffmpeg is called here
alone.
"""
