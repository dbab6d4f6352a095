"""A live view of scripts that run: what their executors and workers do.

    viewer ── VIEWER_MAGIC ──► control socket of an executor ─► its supervisor: report ─► JSON ──► viewer

A script does nothing for this until a viewer asks: the control socket exists anyway. It opens no port, the system tells who
asks, and only processes of the same user get an answer. Nothing is unpickled on either side.
"""
