"""Everything that knows diffusers and transformers: checkpoints, a loaded model, its options and its memory.

Outsiders use `model` (load, loaded, VideoModel), `configuration.configured` and `batching`.
"""
