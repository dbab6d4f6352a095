"""A live view of scripts that run: what their executors and workers do.

    pympipool top ── VIEWER_MAGIC ──► control socket of an executor ─► its supervisor: report ─┐
    browser ──────── GET, a secret ─► server of a dashboard, if the script has made one ───────┴─► live_status ─► JSON

A script does nothing for this until a viewer asks. The control socket exists anyway: it is no port, the system tells who
asks, and only processes of the same user get an answer. A dashboard is a port of this host. Nothing is unpickled on either side.
"""
