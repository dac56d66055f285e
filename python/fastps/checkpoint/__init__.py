"""Checkpoints: their files and manifests (FORMAT.md), and who saves and restores.

Files: `storage` where they lie, `manifest` what was saved, `parts` rows, `reading` a checkpoint
with all that it builds on, `retention` which of them stay. Work: `driver` for who asks for a save
or restore, `agent` for each server.
"""
