# cython: language_level=3, boundscheck=False, wraparound=False
"""Runs most calls of a worker in one step, from the ring of calls to the ring of results.

    SmallCalls.receive()   small call of a function that is ready ─► read, run, written ─► answered; the next message
                           any other message                      ─► returned: Python code handles it

What a small call needs is little beside what Python code around it takes, in caches that another process has used meanwhile. Only
its end is left to Python code, if the result is not small, or if the call has raised.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from pympipool._core.channel cimport Channel
from pympipool._core.opcodes cimport Pickle, begin, drop_known, release
from pympipool._core.pickle_reader cimport SMALL_BYTES_MAX, read_bytes
from pympipool._core.pickle_writer cimport ITEMS_MAX, write_plain
from pympipool._core.ring cimport (
    PMP_CACHED, PMP_CALL, PMP_FUNCTION_CACHE_SIZE, PMP_RESULT, PMP_TRACED, pmp_now_ns, pmp_part, pmp_receiver,
)

cdef extern from "Python.h":
    object PyObject_Call(object function, tuple args, PyObject *kwargs)


cdef enum:
    PAUSE_INTERVAL_NS = 1_000_000  # other threads ask for the GIL after 5 ms

# A function of Python: before it, the interpreter runs signal handlers, and other threads that wait for the GIL. To release the GIL
# here would not do: who waits for it would be too late again and again.
cdef object _pause = eval("lambda: None")


cdef class KeptFunction:
    """A function that calls refer to.

    Attributes:
        number: The number by which they refer to it.
        function: The function as it is called.
        script: The functions of the script that came with it, by name.
        is_current: Returns True as long as the function is what was sent.
        pickled: Its pickle.
        has_classes: The pickle contains classes of the script.
    """

    cdef public uint64_t number
    cdef public object function
    cdef public dict script
    cdef public object is_current
    cdef public bytes pickled
    cdef public bint has_classes


cdef class FunctionSlots:
    """The functions of a rank: the base class of `worker.call_runner.CallRunner`.

    Attributes:
        functions: That of number n is in slot n modulo `FUNCTION_CACHE_SIZE`.
        script: The functions of the script that `__main__` has; None: maybe it has others.
        arrived: The functions of the script that `__main__` has got for the call that runs, or ran last.
    """

    cdef public list functions
    cdef public dict script
    cdef public dict arrived

    cdef KeptFunction ready(self, uint64_t number):
        """Return a function whose script `__main__` has; otherwise, or if there is no function of this number, None."""
        cdef KeptFunction kept = self.functions[number % PMP_FUNCTION_CACHE_SIZE]
        if number == 0 or kept.number != number or kept.script is not self.script or len(self.arrived) != len(kept.script):
            return None
        return kept


cdef tuple read_call(pmp_receiver *receiver):
    """Return (args, kwargs) of a small call that was received; None for other messages. The message is left as it is."""
    cdef unsigned char pickle[SMALL_BYTES_MAX]
    cdef size_t size = receiver.parts[0].size_bytes
    if receiver.owned or receiver.lost or size > SMALL_BYTES_MAX:
        return None
    memcpy(pickle, receiver.parts[0].data, size)  # what is in the ring, another process can change
    try:
        call = read_bytes(pickle, size)
    except Exception:  # no memory, or it is damaged: Python code says so
        return None
    if type(call) is not tuple or len(<tuple>call) != 2 or type((<tuple>call)[0]) is not tuple:
        return None
    return call if type((<tuple>call)[1]) is dict else None


cdef class SmallCalls:
    """Receives the messages of a rank, and serves those that are small calls.

    A call is served here if it is neither traced nor cached, its function is ready, and pickle_reader.pyx can read its arguments.

    Args:
        channel: The channel.
        functions: The functions.
        kinds: As of `dump_plain_value`, for results.
        returned: Gets a result that is not small. Returns the answer: (kind, outcome, parts).
        raised: Gets the id of a call and the exception that it has raised. Returns the answer.
        has_result: The result is sent; otherwise an empty part takes its place.
    """

    cdef Channel channel
    cdef FunctionSlots functions
    cdef object kinds, forks, restore, returned, raised
    cdef bint has_result
    cdef int64_t next_pause_ns

    def __init__(self, Channel channel not None, FunctionSlots functions not None, kinds not None, returned, raised,
                 bint has_result=True):
        self.channel = channel
        self.functions = functions
        self.forks = functions.forks
        self.restore = functions.restore
        self.kinds = kinds
        self.returned = returned
        self.raised = raised
        self.has_result = has_result

    def receive(self):
        """Serve small calls until there is another message; return it, or None, as `Channel.receive` does."""
        while True:
            self.end_fork()  # of a finalizer of the call before, or of a signal handler meanwhile
            if not self.channel.await_message(-1):
                return None
            if not self.serve():
                return self.channel.take_message()
            self.give_way()

    cdef int give_way(self) except -1:
        """Have signal handlers and other threads run, if all calls are those of compiled functions."""
        if self.channel.received_ns >= self.next_pause_ns:
            self.next_pause_ns = self.channel.received_ns + PAUSE_INTERVAL_NS
            _pause()
        return 0

    cdef bint serve(self) except -1:
        """Serve the message that was received; return False if it is not a small call."""
        cdef pmp_receiver *receiver = &self.channel.receiver
        cdef uint64_t id = receiver.head.id
        if receiver.head.kind != PMP_CALL or receiver.head.part_count != 1 or id & (PMP_TRACED | PMP_CACHED):
            return False
        cdef KeptFunction kept = self.functions.ready(receiver.head.tag)
        if kept is None:
            return False
        call = read_call(receiver)
        if call is None:
            return False
        self.channel.drop_message()
        self.run(id, kept, call)
        return True

    cdef int run(self, uint64_t id, KeptFunction kept, tuple call) except -1:
        cdef dict kwargs = call[1]
        cdef Pickle pickle
        try:
            if not kept.is_current():
                kept = self.restore(kept)
                self.end_fork()
            value = PyObject_Call(kept.function, call[0], <PyObject *>kwargs if kwargs else NULL)
        except BaseException as error:  # SystemExit too, as in concurrent.futures
            self.end_fork()
            answer = self.raised(id, error)
        else:
            begin(&pickle, ITEMS_MAX)
            try:
                if not self.has_result or self.write(&pickle, value):
                    drop_known(&pickle)
                    value = None  # before it is sent
                    self.end_fork()
                    self.send_small(id, &pickle)
                    return 0
            finally:
                release(&pickle)
            self.end_fork()
            answer = self.returned(value)
            value = None
        self.end_fork()  # of a finalizer
        kind, outcome, parts = answer
        self.channel.answer(kind, id, parts, -1, outcome)
        return 0

    cdef int end_fork(self) except -1:
        if self.forks.is_fork:
            self.forks.end_fork()
        return 0

    cdef int send_small(self, uint64_t id, Pickle *pickle) except -1:
        """Answer a call with its result."""
        cdef pmp_part part
        part.data = pickle.data
        part.size_bytes = pickle.size_bytes
        self.channel.send_answer(PMP_RESULT, id, &part, 1, pmp_now_ns() - self.channel.received_ns, 0)
        return 0

    cdef bint write(self, Pickle *pickle, value) except -1:
        """Write a result into a pickle; return False if it has large parts besides, or cannot be written here."""
        cdef list parts
        try:
            parts = [None]
            return write_plain(pickle, value, self.kinds, parts) and len(parts) == 1
        except Exception:  # no memory, or a handle that is none: `returned` says so
            return False
