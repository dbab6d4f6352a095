# cython: language_level=3
"""How long the calls of a worker import modules, for traces.

`start` replaces the function of importlib that import statements and `importlib.import_module` call for modules that are not
imported yet. A worker does so when it receives its first traced call. Without a trace this module is not imported.

The time of an import counts for the package that a call asked for: with that of all modules that this package imports.
"""

from libc.stdint cimport int64_t

import _frozen_importlib

cdef extern from *:
    """
    #include <string.h>

    #include "doorbell.h"

    enum {
        PMP_PACKAGES_MAX = 8,     /* further packages share the last entry */
        PMP_PACKAGE_NAME = 32,    /* bytes of a name; longer names are cut */
    };

    typedef struct {
        int64_t time_ns;
        char name[PMP_PACKAGE_NAME];
    } pmp_import_time;

    static pmp_import_time pmp_import_times[PMP_PACKAGES_MAX];
    static int64_t pmp_import_count;
    static int pmp_import_depth;
    static PyObject *pmp_find_and_load;

    /* Returns the entry of the package to which a module belongs. */
    static pmp_import_time *pmp_entry_of(const char *module) {
        size_t length = strcspn(module, ".");
        if (length > PMP_PACKAGE_NAME)
            length = PMP_PACKAGE_NAME;
        pmp_import_time *entry = pmp_import_times;
        for (int64_t i = 0; i < pmp_import_count; i++, entry++)
            if (strncmp(entry->name, module, length) == 0 && (length == PMP_PACKAGE_NAME || !entry->name[length]))
                return entry;
        if (pmp_import_count == PMP_PACKAGES_MAX) {
            entry--;
            module = "others";
            length = 6;
        } else {
            pmp_import_count++;
            entry->time_ns = 0;
        }
        memset(entry->name, 0, PMP_PACKAGE_NAME);
        memcpy(entry->name, module, length);
        return entry;
    }

    /* Our own modules do not count, but what they import does: numpy, for arrays. */
    static int pmp_is_own(const char *module) {
        return strncmp(module, "pympipool", 9) == 0 && (module[9] == '.' || !module[9]);
    }

    /* In C because a function of Python or Cython would appear in the tracebacks of failed imports. */
    static PyObject *pmp_timed_find_and_load(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
        const char *module = count > 0 && PyUnicode_Check(args[0]) ? PyUnicode_AsUTF8(args[0]) : NULL;
        if (module == NULL)
            PyErr_Clear();
        if (module == NULL || pmp_import_depth > 0 || pmp_is_own(module))
            return PyObject_Vectorcall(pmp_find_and_load, args, (size_t)count, names);
        int64_t start_ns = pmp_now_ns();
        pmp_import_depth++;
        PyObject *imported = PyObject_Vectorcall(pmp_find_and_load, args, (size_t)count, names);
        pmp_import_depth--;
        pmp_entry_of(module)->time_ns += pmp_now_ns() - start_ns;
        return imported;
    }

    static PyMethodDef pmp_timed_find_and_load_method = {
        "_find_and_load", (PyCFunction)(void (*)(void))pmp_timed_find_and_load, METH_FASTCALL | METH_KEYWORDS, NULL
    };

    static PyObject *pmp_new_timed_find_and_load(PyObject *original) {
        pmp_find_and_load = Py_NewRef(original);
        return PyCFunction_New(&pmp_timed_find_and_load_method, NULL);
    }
    """
    ctypedef struct pmp_import_time:
        int64_t time_ns
    pmp_import_time pmp_import_times[8]
    int64_t pmp_import_count
    object pmp_new_timed_find_and_load(object original)

cdef bint started = False


def start():
    """Measure imports from now on."""
    global started
    original = getattr(_frozen_importlib, "_find_and_load", None)
    if not started and original is not None:
        _frozen_importlib._find_and_load = pmp_new_timed_find_and_load(original)
    started = True


def take():
    """Return what was imported since the last call of this function, as it is sent (see `Record.import_count`)."""
    global pmp_import_count
    cdef int64_t count = pmp_import_count
    taken = (<char *>&count)[:sizeof(count)] + (<char *>pmp_import_times)[:count * sizeof(pmp_import_time)]
    pmp_import_count = 0
    return taken
