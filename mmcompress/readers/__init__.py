"""Programs that load an export by other libraries alone, each in a process of its own.

    python -P with_open_clip.py FOLDER ITEMS OUT.npz

ITEMS holds pictures (`*.png`), `texts.json` and `sounds.npz`; OUT gets an array (N, D) for each
modality. `mmcompress.exports.check` runs them; they show what a user of the library writes.
"""
