"""Leave the frames of compiled modules out of tracebacks.

A traceback shows them to users between their own line and the exception, and IPython with ten lines of our source. A
function of Cython adds its frame when it fails. So C code between the function and its caller removes the frame.
"""

cdef extern from *:
    """
    #include <frameobject.h>
    #include <string.h>

    /* Removes frames of compiled modules, and of the generators of map (in execution/), at the outer end of the traceback. */
    static void pmp_hide_own_frames(void) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        while (traceback != NULL && PyTraceBack_Check(traceback)) {
            PyTracebackObject *entry = (PyTracebackObject *)traceback;
            PyCodeObject *code = PyFrame_GetCode(entry->tb_frame);
            const char *name = PyUnicode_AsUTF8(code->co_filename);
            int is_own = name != NULL && (strncmp(name, "pympipool/_core/", 16) == 0 ||
                                          strstr(name, "/pympipool/execution/") != NULL);
            Py_DECREF(code);
            if (!is_own)
                break;
            PyObject *next = (PyObject *)entry->tb_next;
            Py_XINCREF(next);
            Py_DECREF(traceback);
            traceback = next;
        }
        PyErr_Clear(); /* of PyUnicode_AsUTF8 */
        if (value != NULL && traceback == NULL)
            PyException_SetTraceback(value, Py_None);
        PyErr_Restore(type, value, traceback);
    }

    static iternextfunc pmp_compiled_next;

    static PyObject *pmp_next(PyObject *self) {
        PyObject *item = pmp_compiled_next(self);
        if (item == NULL && PyErr_Occurred())
            pmp_hide_own_frames();
        return item;
    }

    /* Lets iterators of a class raise without our frames. Its base class was compiled by Cython. */
    static inline void pmp_hide_frames_of_next(PyObject *type, PyObject *compiled) {
        pmp_compiled_next = ((PyTypeObject *)compiled)->tp_iternext;
        ((PyTypeObject *)type)->tp_iternext = pmp_next;
    }

    static PyObject *pmp_compiled_result;

    static PyObject *pmp_result(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
        Py_ssize_t total = count + (names == NULL ? 0 : PyTuple_GET_SIZE(names));
        PyObject *all[4] = {NULL, self};
        if (total > 2)
            return PyErr_Format(PyExc_TypeError, "result() takes one argument, timeout; %zd were given", total);
        for (Py_ssize_t i = 0; i < total; i++)
            all[i + 2] = args[i];
        PyObject *value = PyObject_Vectorcall(pmp_compiled_result, all + 1, (size_t)(count + 1), names);
        if (value == NULL)
            pmp_hide_own_frames();
        return value;
    }

    static PyMethodDef pmp_result_method = {
        "result", (PyCFunction)(void (*)(void))pmp_result, METH_FASTCALL | METH_KEYWORDS,
        "result($self, /, timeout=None)\\n--\\n\\n"
    };

    /* Returns a method that does the same as a method `result` that was compiled by Cython. */
    static inline PyObject *pmp_result_without_frames(PyObject *type, PyObject *compiled) {
        pmp_compiled_result = Py_NewRef(compiled);
        return PyDescr_NewMethod((PyTypeObject *)type, &pmp_result_method);
    }
    """
    void pmp_hide_frames_of_next(object type, object compiled)
    object pmp_result_without_frames(object type, object compiled)
