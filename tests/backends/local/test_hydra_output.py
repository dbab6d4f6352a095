from __future__ import annotations

import io
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pympipool.backends.local.hydra_output import JobOutput
from pympipool.pool.event_loop import EventLoop
from pympipool.pool.output import Output, OutputWriter

REPORT = (
    b"\n===================================================================================\n"
    b"=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES\n"
    b"=   PID 20321 RUNNING AT localhost\n"
    b"=   EXIT CODE: 9\n"
    b"=   CLEANING UP REMAINING PROCESSES\n"
    b"=   YOU CAN IGNORE THE BELOW CLEANUP MESSAGES\n"
    b"===================================================================================\n"
    b"YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)\n"
    b"This typically refers to a problem with your application.\n"
    b"Please see the FAQ page for debugging suggestions\n"
)


class Pipe:
    """A pipe that does not block: it returns chunks, with None in between."""

    def __init__(self, chunks):
        self.chunks = [item for chunk in chunks for item in (chunk, None)]

    def read(self, size=-1):
        return self.chunks.pop(0) if self.chunks else b""

    def fileno(self):
        return 5

    def close(self):
        pass


def chunks_of(data, cuts):
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False) if begin < end]


def read_all(output):
    read = []
    while (data := output.read(1 << 16)) != b"":
        read.append(data or b"")
    assert output.read(1 << 16) == b""
    return b"".join(read)


printed = st.one_of(st.binary(max_size=100), st.text("=\nB ", max_size=200).map(str.encode))


@given(printed, st.lists(st.integers(0, 1000)))
def test_output_of_ranks_is_unchanged(data, cuts):
    output = JobOutput(Pipe(chunks_of(data, cuts)))
    assert read_all(output) == data
    assert output.signal is None


@given(printed, st.lists(st.integers(0, 200)), st.lists(st.integers(21, 600)))
def test_report_in_any_chunks_is_taken_out(data, cuts, cuts_of_report):
    chunks = [*chunks_of(data, cuts), *chunks_of(REPORT, cuts_of_report)]
    output = JobOutput(Pipe(chunks))
    read = read_all(output)
    assert read in (data, data + b"\n")  # the empty line before the report may have been passed on already
    assert output.signal == 9


@given(printed, st.lists(st.integers(0, 1000)), st.lists(st.integers(0, 1000)))
def test_exit_codes_after_good_ends_are_taken_out(data, cuts, cuts_of_codes):
    codes = f"[mpiexec@{socket.gethostname()}] Exit codes: [localhost] 0,0,0\n".encode()
    cut = [chunk for chunk in chunks_of(codes, cuts_of_codes) if chunk]
    if cut and len(cut[0]) < 4:  # mpiexec writes more at once
        cut = [codes]
    output = JobOutput(Pipe([*chunks_of(data, cuts), *cut]))
    assert read_all(output) == data
    assert output.exit_codes == [0, 0, 0]
    assert output.signal is None


def test_exit_code_of_each_rank_is_known():
    codes = f"[mpiexec@{socket.gethostname()}] Exit codes: [localhost] 0,768,9,2304\n".encode()
    output = JobOutput(Pipe([REPORT.replace(b"YOUR APPLICATION T", codes + b"YOUR APPLICATION T")]))
    assert read_all(output) == b""
    assert output.exit_codes == [0, 3, -9, 9]
    assert output.signal == 9


@pytest.mark.parametrize("last", [b"=" * 50, b"=" * 83 + b"\n"])
def test_unfinished_beginning_of_report_reaches_the_user(last, capsys):
    """The pipe is read at once after the end, not chunk by chunk."""
    reader, writer = os.pipe()
    os.write(writer, last)
    os.close(writer)
    os.set_blocking(reader, False)
    loop = EventLoop("unused", at_exit=lambda: None)
    stdout = OutputWriter("stdout", loop)
    Output(JobOutput(open(reader, "rb", buffering=0)), stdout, None, loop).drain()
    stdout.close()
    loop.close()
    assert capsys.readouterr().out.encode() == last


@pytest.mark.parametrize("line", [b"result: 5\n", b"no end of line", b"\n"])
def test_ordinary_lines_are_not_held_back(line):
    output = JobOutput(Pipe([line]))
    assert output.read(100) == line


def test_fileno_and_close_are_those_of_the_pipe():
    pipe = io.BytesIO()
    output = JobOutput(pipe)
    output.close()
    assert pipe.closed
    assert JobOutput(Pipe([])).fileno() == 5
