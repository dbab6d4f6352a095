"""What CPython keeps about classes, in C."""

from cpython.object cimport PyObject

cdef extern from *:
    """
    #define pmp_type(kind) ((PyTypeObject *)(kind))

    static inline unsigned int pmp_type_version(PyObject *kind) {
    #if PY_VERSION_HEX < 0x030D0000
        if (!(pmp_type(kind)->tp_flags & Py_TPFLAGS_VALID_VERSION_TAG))
            return 0;
    #endif
        return pmp_type(kind)->tp_version_tag;
    }

    static inline int pmp_is_heap_type(PyObject *kind) {
        return PyType_Check(kind) && (pmp_type(kind)->tp_flags & Py_TPFLAGS_HEAPTYPE) != 0;
    }

    static inline PyObject *pmp_type_name(PyObject *kind) { return ((PyHeapTypeObject *)kind)->ht_name; }
    static inline PyObject *pmp_type_qualname(PyObject *kind) { return ((PyHeapTypeObject *)kind)->ht_qualname; }
    static inline PyObject *pmp_type_bases(PyObject *kind) { return pmp_type(kind)->tp_bases; }
    static inline PyObject *pmp_type_dict(PyObject *kind) { return pmp_type(kind)->tp_dict; }
    static inline PyObject *pmp_type_mro(PyObject *kind) { return pmp_type(kind)->tp_mro; }

    /* True if all that an instance has is in its __dict__, and if that is found without code of the class. */
    static inline int pmp_has_only_dict(PyObject *kind) {
        PyTypeObject *type = pmp_type(kind);
        Py_ssize_t size = sizeof(PyObject);
        if (type->tp_dictoffset > 0)
            size += sizeof(PyObject *);
        if (type->tp_weaklistoffset > 0)
            size += sizeof(PyObject *);
        return pmp_is_heap_type(kind) && type->tp_dictoffset != 0 && type->tp_itemsize == 0 && type->tp_basicsize == size &&
               type->tp_getattro == PyObject_GenericGetAttr;
    }

    static inline PyObject *pmp_dict_of(PyObject *instance) { return PyObject_GenericGetDict(instance, NULL); }
    """
    unsigned int pmp_type_version(object kind)
    bint pmp_is_heap_type(object kind)
    PyObject *pmp_type_name(object kind)
    PyObject *pmp_type_qualname(object kind)
    PyObject *pmp_type_bases(object kind)
    PyObject *pmp_type_dict(object kind)
    PyObject *pmp_type_mro(object kind)
    bint pmp_has_only_dict(object kind)
    object pmp_dict_of(object instance)
