"""The command `cogvideo-edit`. Others use `main.app` alone.

Nothing here imports torch, diffusers or Prefect before a command needs it, so that `--help` is quick.
"""
