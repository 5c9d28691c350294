"""A bucket of S3's kind: where results go, under which key, sent once and compared. No ComfyUI import.

Read in this order: profiles (where to), keys (under which name), client (the connection and its errors in plain
words), upload (one file), journal (what was sent), sync (a whole folder), day_facts (metadata.json), service (what
this one can do).
"""
