"""The agent: one process for each cache directory, which alone fetches, verifies, writes and evicts chunks.

Workers (`client.py`) tell it over a unix socket which blobs they serve (`protocol.py`), ask for chunks by
their upcall rings, and hear of them by completion rings (native/c/link.h). `server.py` is its composition
root, `session.py` one worker as it sees it.
"""
