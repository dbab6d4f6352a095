"""Traces: when each call was submitted, sent, started and ended; recorded, saved, loaded, summarized, drawn.

    session.py     with trace("run.json"): has the dispatchers record ─► Recorder, the records of one executor
      collect.py   records ─► Timeline: calls, workers, executors; corrects the clocks of other hosts
      export.py    Timeline ─► run.json: trace events, as Perfetto and Chrome show them
    load.py        run.json ─► Timeline
    summary.py     Timeline ─► Summary: numbers
      utilization.py   ... about workers: when they were busy, and why they were idle
      findings.py      ... and what to change
    report.py      Summary ─► text
    plot.py        Timeline ─► matplotlib figure; tracks.py says which worker is drawn where

`pympipool._core.trace_buffer` records the calls while they run. `pympipool.tracing` is the public face.
"""
