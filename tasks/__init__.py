"""Prefect tasks: thin shells over cogvideo_core, one verb each. JSON records in, JSON records out."""
