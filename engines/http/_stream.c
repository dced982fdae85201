/* What runs once per token, for machines where this package could be compiled.
 *
 * Each part but Reader has a twin in Python with the same results, which is used where there is no compiler
 * and against which tests and the fuzzer hold it. Nothing here understands more than it must: whatever is
 * odd goes back to Python.
 */
#define _GNU_SOURCE /* memmem, pthread_setname_np */
#define PY_SSIZE_T_CLEAN
#include "_tap.h"
#include "_cast.h"
#ifdef __linux__
#include "_arrival.h"
#include "_reader.h"
#endif

static PyMethodDef methods[] = {
    {"cast", cast, METH_VARARGS,
     "cast(reads, first, last, before, after): (events in each of reads[first:last], their number, how many texts are empty, the texts as a JSON list), "
     "or None unless those reads hold whole events of this mould and nothing else."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "engines.http._stream", .m_doc = "What runs once per token.", .m_size = -1, .m_methods = methods,
};

static int add_type(PyObject *made, const char *name, PyTypeObject *type) {
    return PyType_Ready(type) < 0 ? -1 : PyModule_AddObjectRef(made, name, (PyObject *)type);
}

PyMODINIT_FUNC PyInit__stream(void) {
    PyObject *made = PyModule_Create(&module);
    if (made == NULL) return NULL;
    int failed = add_type(made, "Tap", &TapType);
#ifdef __linux__
    if (!failed) failed = add_type(made, "Reader", &ReaderType);
#endif
    if (failed) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
