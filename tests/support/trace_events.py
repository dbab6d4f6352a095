"""The JSON schema of trace events.

It follows "Trace Event Format", Google: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
It is stricter where Perfetto 52 reads less than that format allows: ids of flows are numbers.
"""

NUMBER = {"type": "number"}
COUNT = {"type": "integer", "minimum": 0}
COMMON = {"name": {"type": "string"}, "ph": {"type": "string"}, "pid": COUNT, "tid": COUNT}


def event(phases, *, required=(), **properties):
    properties = {**COMMON, "ph": {"enum": phases}, **properties}
    return {
        "type": "object",
        "properties": properties,
        "required": ["name", "ph", "pid", "tid", *required],
        "additionalProperties": False,
    }


TRACED = {"ts": NUMBER, "cat": {"type": "string"}, "args": {"type": "object"}}
DURATION = {"type": "number", "minimum": 0}
LOCAL = {
    "type": "object",
    "properties": {"local": {"type": "string", "pattern": "^0x[0-9a-f]+$"}},
    "required": ["local"],
    "additionalProperties": False,
}
EVENTS = [
    event(["M"], required=["args"], args={"type": "object"}),
    event(["X"], required=["ts", "dur", "cat"], dur=DURATION, **TRACED),
    event(["B"], required=["ts", "cat"], **TRACED),
    event(["i"], required=["ts", "cat", "s"], s={"enum": ["g", "p", "t"]}, **TRACED),
    event(["b", "e"], required=["ts", "cat", "id2"], id2=LOCAL, **TRACED),
    event(["s"], required=["ts", "cat", "id"], id=COUNT, **TRACED),
    event(["f"], required=["ts", "cat", "id", "bp"], id=COUNT, bp={"const": "e"}, **TRACED),
    event(["C"], required=["ts", "args"], ts=NUMBER, args={"type": "object", "additionalProperties": NUMBER}),
]

SCHEMA = {
    "type": "object",
    "properties": {
        "traceEvents": {"type": "array", "items": {"oneOf": EVENTS}},
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "pympipool": {"type": "object"},
    },
    "required": ["traceEvents"],
    "additionalProperties": False,
}


def check_nesting(events):
    """Check that slices of a thread or id are disjoint or nested, and that no counter is negative."""
    tracks = {}
    for one in events:
        if one["ph"] == "X":
            begin = round(one["ts"] * 1000)
            tracks.setdefault((one["pid"], one["tid"]), []).append((begin, -round(one["dur"] * 1000)))
    for slices in tracks.values():
        open_ends = []
        for begin, negative in sorted(slices):
            while open_ends and open_ends[-1] <= begin:
                open_ends.pop()
            assert not open_ends or begin - negative <= open_ends[-1]
            open_ends.append(begin - negative)
    open_names = {}
    for one in events:
        if one["ph"] == "b":
            open_names.setdefault((one["pid"], one["id2"]["local"]), []).append((one["name"], one["ts"]))
        elif one["ph"] == "e":
            name, start = open_names[one["pid"], one["id2"]["local"]].pop()
            assert (name, one["ts"] >= start) == (one["name"], True)
        elif one["ph"] == "C":
            assert min(one["args"].values()) >= 0
    assert not any(open_names.values())
