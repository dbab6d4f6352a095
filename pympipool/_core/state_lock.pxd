"""What takes the place of the GIL in a Python without one. In a Python with the GIL all of this compiles to nothing.

Under the GIL, C code that runs no Python code is one step for all other threads. That is what the state of futures and
queues relies on. Without the GIL such a step holds the state lock (`mailbox.state_mutex`), one for the process:

- It is taken before `Core.lock`, never while that is held.
- The holder runs no code of users: it gives up no reference that may be the last one to an object of theirs.
- A thread that has to wait for it is detached from the interpreter meanwhile, so that the collector can stop all others.
  So no thread is stopped in the middle of a step, but for one place: `Dispatcher.admit` changes a dict, whose own lock it may
  have to wait for. It has changed nothing by then.
- A step may contain others: the thread that holds the lock can take it again.
- The child of a fork finds it free. Up to Python 3.13 a fork waits for the lock. Later Pythons stop all threads before they fork:
  none is in a step then, or it is in `admit`, could not go on, and must not be waited for.

What is read without the lock is of a type for that: `shared_status`, `shared_id`, `shared_seconds`, `counter`.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t

cdef extern from *:
    """
    #include <stdint.h>

    #ifdef Py_GIL_DISABLED

    #include <pthread.h>
    #include <stdatomic.h>

    typedef pthread_mutex_t pmp_state_mutex;
    typedef _Atomic(int) pmp_shared_status;
    typedef _Atomic(unsigned long) pmp_shared_id;
    typedef _Atomic(double) pmp_shared_seconds;
    typedef _Atomic(int64_t) pmp_counter;

    static pmp_state_mutex *pmp_own_state_mutex; /* in the module that has it */

    static int pmp_make_state_mutex(void) {
        pthread_mutexattr_t attributes;
        int code = pthread_mutexattr_init(&attributes);
        if (code != 0)
            return code;
        pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
        code = pthread_mutex_init(pmp_own_state_mutex, &attributes);
        pthread_mutexattr_destroy(&attributes);
        return code;
    }

    #if PY_VERSION_HEX < 0x030E0000
    static void pmp_lock_before_fork(void) { pthread_mutex_lock(pmp_own_state_mutex); }
    static void pmp_unlock_after_fork(void) { pthread_mutex_unlock(pmp_own_state_mutex); }
    #else
    #define pmp_lock_before_fork NULL
    #define pmp_unlock_after_fork NULL
    #endif
    static void pmp_make_in_child(void) { pmp_make_state_mutex(); } /* its owner is a thread with another id */

    /* Returns 0 or an errno. Called once. */
    static inline int pmp_init_state_mutex(pmp_state_mutex *mutex) {
        pmp_own_state_mutex = mutex;
        int code = pmp_make_state_mutex();
        return code != 0 ? code : pthread_atfork(pmp_lock_before_fork, pmp_unlock_after_fork, pmp_make_in_child);
    }

    static inline void pmp_lock_state(pmp_state_mutex *mutex) {
        while (pthread_mutex_trylock(mutex) != 0) {
            /* A thread that attaches again may be stopped there, so it does not have the lock by then. */
            PyThreadState *state = PyEval_SaveThread();
            pthread_mutex_lock(mutex);
            pthread_mutex_unlock(mutex);
            PyEval_RestoreThread(state);
        }
    }

    #define pmp_unlock_state(mutex) ((void)pthread_mutex_unlock(mutex))

    static inline int64_t pmp_count(pmp_counter *counter, int64_t change) {
        return atomic_fetch_add_explicit(counter, change, memory_order_acq_rel) + change;
    }

    /* Returns a reference to the value of a key, or NULL: with an exception, or without one if there is none. */
    static inline PyObject *pmp_get_item(PyObject *dict, PyObject *key) {
        PyObject *item;
        PyDict_GetItemRef(dict, key, &item);
        return item;
    }

    static inline int pmp_is_container(PyObject *item) {
        return PyList_CheckExact(item) || PyDict_CheckExact(item) || PyTuple_CheckExact(item);
    }

    #define pmp_hold_known(item) Py_INCREF(item)
    #define pmp_drop_known(item) Py_DECREF(item)
    #define pmp_hold_item(item) do { if (pmp_is_container(item)) Py_INCREF(item); } while (0)
    #define pmp_drop_item(item) do { if (pmp_is_container(item)) Py_DECREF(item); } while (0)

    #else

    typedef char pmp_state_mutex;
    typedef int pmp_shared_status;
    typedef unsigned long pmp_shared_id;
    typedef double pmp_shared_seconds;
    typedef int64_t pmp_counter;

    #define pmp_init_state_mutex(mutex) ((void)(mutex), 0)
    #define pmp_lock_state(mutex) ((void)(mutex))
    #define pmp_unlock_state(mutex) ((void)(mutex))
    #define pmp_count(counter, change) (*(counter) += (change))

    static inline PyObject *pmp_get_item(PyObject *dict, PyObject *key) {
        PyObject *item = PyDict_GetItemWithError(dict, key);
        Py_XINCREF(item);
        return item;
    }

    #define pmp_hold_known(item) ((void)(item))
    #define pmp_drop_known(item) ((void)(item))
    #define pmp_hold_item(item) ((void)(item))
    #define pmp_drop_item(item) ((void)(item))

    #endif
    """
    ctypedef struct pmp_state_mutex:
        pass
    ctypedef int shared_status "pmp_shared_status"
    ctypedef unsigned long shared_id "pmp_shared_id"
    ctypedef double shared_seconds "pmp_shared_seconds"
    ctypedef int64_t counter "pmp_counter"
    int pmp_init_state_mutex(pmp_state_mutex *mutex)
    void pmp_lock_state(pmp_state_mutex *mutex)
    void pmp_unlock_state(pmp_state_mutex *mutex)
    int64_t pmp_count(counter *counter, int64_t change)
    PyObject *pmp_get_item(object dict, object key) except? NULL
    # For a borrowed item of a list or dict whose critical section is held: that of another list or dict may let it go.
    void pmp_hold_item(PyObject *item)
    void pmp_drop_item(PyObject *item)
    # For an object whose address stands for it until the pickle has been written.
    void pmp_hold_known(PyObject *item)
    void pmp_drop_known(PyObject *item)
