"""The graph of calls, drawn instead of run: `Executor(plot_dependency_graph=True)`.

    submit ─► GraphRecorder: a node, and an edge from each call whose future is among the arguments ─► a future without result
    close  ─► alike calls together ─► layers ─► where each box stands ─► SVG: in the notebook, or to a file

What stands in a box is what was submitted: the name of the function, and its arguments in a few words; of the arguments
themselves nothing is kept. Nothing has to be installed for it: a few boxes and curves are less than a library for them.
"""

from pympipool.diagnostics.graph.recorder import GraphRecorder, NullBackend

__all__ = ["GraphRecorder", "NullBackend"]
