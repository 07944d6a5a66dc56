"""Prefect tasks: thin shells over cogvideo_core, one verb each."""
