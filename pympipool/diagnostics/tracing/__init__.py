"""What happened to each call, and when: recorded, written, read, summed up, drawn.

    session.py    with trace("run.json"): has the dispatchers record ─► Recorder, bytes of each
      collect.py  ─► Timeline: calls, workers, executors; the clocks of other hosts are set right
      writing.py  ─► run.json, trace events as Perfetto and Chrome show them
    reading.py    run.json ─► Timeline
    summary.py    Timeline ─► Summary: numbers
      shares.py     ... of workers: when they were busy, and why they were not
      advice.py     ... and what they mean: what to change
    words.py      Summary ─► text
    picture.py    Timeline ─► matplotlib

How calls are recorded while they run is the matter of `pympipool._core.trace_buffer`.
"""
