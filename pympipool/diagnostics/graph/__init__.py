"""Draw the graph of calls instead of running them: `Executor(plot_dependency_graph=True)`.

    submit ─► GraphRecorder: a node, and an edge from each call whose future is among the arguments ─► a future without result
    close  ─► merge similar calls ─► layers ─► position of each box ─► SVG: in the notebook, or to a file

A box shows the name of the function and a summary of its arguments; the arguments themselves are not kept. Drawing
needs no library: a few boxes and curves take less code than the use of one.
"""

from pympipool.diagnostics.graph.recorder import GraphRecorder, NullBackend

__all__ = ["GraphRecorder", "NullBackend"]
