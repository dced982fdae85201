/* The loop over the stamps of one response, for machines where this package could be compiled: a fifth of what it costs in
 * Python. The same in Python is live/metrics.py: add_intervals. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

static void add(int64_t *counts, Py_ssize_t at, int64_t more) { /* through memcpy: a buffer may be unaligned */
    int64_t count;
    memcpy(&count, counts + at, sizeof count);
    count += more;
    memcpy(counts + at, &count, sizeof count);
}

/* The first bucket whose bound is not below the gap; `bounds` itself where none is. */
static Py_ssize_t bucket_of(const int64_t *bounds, Py_ssize_t size, int64_t gap) {
    Py_ssize_t low = 0, high = size;
    while (low < high) {
        Py_ssize_t middle = (low + high) / 2;
        if (bounds[middle] < gap) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* A burst's intervals share its time, the remainder going one ns each to the first: definitions.token_runs_ns. */
static void add_burst(int64_t *counts, const int64_t *bounds, Py_ssize_t size, long long shared, long long intervals) {
    if (intervals <= 0) return;
    long long share = shared / intervals, rest = shared % intervals;
    if (rest < 0) share--, rest += intervals; /* floor, as in Python */
    if (rest > 0) add(counts, bucket_of(bounds, size, share + 1), rest);
    add(counts, bucket_of(bounds, size, share), intervals - rest);
}

static PyObject *bin_intervals(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *stamps, *tokens;
    Py_buffer bounds, counts;
    long long burst_ns;
    if (!PyArg_ParseTuple(args, "O!O!y*w*L", &PyList_Type, &stamps, &PyList_Type, &tokens, &bounds, &counts, &burst_ns)) return NULL;
    Py_ssize_t size = bounds.len / (Py_ssize_t)sizeof(int64_t), chunks = Py_MIN(PyList_GET_SIZE(stamps), PyList_GET_SIZE(tokens));
    PyObject *result = NULL;
    long long first = 0, last = 0, shared = 0, intervals = 0;
    int seen = 0;
    if (counts.len != bounds.len + (Py_ssize_t)sizeof(int64_t)) {
        PyErr_SetString(PyExc_ValueError, "one count more than bounds");
        goto done;
    }
    for (Py_ssize_t i = 0; i < chunks; i++) {
        long long many = PyLong_AsLongLong(PyList_GET_ITEM(tokens, i));
        long long stamp = PyLong_AsLongLong(PyList_GET_ITEM(stamps, i));
        if (PyErr_Occurred()) goto done;
        if (many <= 0) continue;
        if (!seen) {
            first = stamp;
            intervals = many - 1;
        } else if (stamp - last > burst_ns) {
            add_burst(counts.buf, bounds.buf, size, shared, intervals);
            shared = stamp - last;
            intervals = many;
        } else {
            shared += stamp - last;
            intervals += many;
        }
        last = stamp;
        seen = 1;
    }
    add_burst(counts.buf, bounds.buf, size, shared, intervals);
    result = seen ? Py_BuildValue("(LL)", first, last) : Py_NewRef(Py_None);
done:
    PyBuffer_Release(&bounds);
    PyBuffer_Release(&counts);
    return result;
}

static PyMethodDef methods[] = {
    {"bin_intervals", bin_intervals, METH_VARARGS,
     "bin_intervals(stamps, tokens, bounds, counts, burst_ns): add a response's intervals between tokens to `counts`; its first and\n"
     "last token's stamps, or None."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "bytemlperf_llm._stamps", .m_doc = "Loops over stamps.", .m_size = -1, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__stamps(void) { return PyModule_Create(&module); }
