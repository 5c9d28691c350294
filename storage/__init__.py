"""Keeping results: video encoding with metadata, R2 profiles, upload, sync. No ComfyUI import.

Read in this order: profiles (where to), keys (under which name), client (the connection and its errors in plain
words), upload (one file), journal (what was sent), sync (a whole folder), day_facts (metadata.json), encode (files
with the workflow inside).
"""
