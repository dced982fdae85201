/* The two loops that run once per token, for machines where this package could be compiled.
 *
 * Tap       stamps and keeps a read, and looks at it only if it could be an answer's last (engines/tap.py)
 * cast      shows that events are alike and takes their texts out (engines/openai_alike.py)
 *
 * Each has a twin in Python with the same results, which is used where there is no compiler and against
 * which tests and the fuzzer hold this file. Nothing here understands more than it must: whatever is odd
 * goes back to Python.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>
#include <time.h>

/* -- Tap --------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *look;      /* called with a read that could be the last, or that nobody asked for */
    PyObject *chunk;     /* what takes a read when there are no lists; NULL: nobody */
    PyObject *stamps;    /* list of int ns, or NULL */
    PyObject *payloads;  /* list of bytes, or NULL */
    Py_ssize_t left_bytes;
    Py_ssize_t left_reads;
    char quiet;
} Tap;

static int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int keep(Tap *self, PyObject *data, int64_t now) {
    if (self->stamps != NULL) {
        PyObject *stamp = PyLong_FromLongLong(now);
        if (stamp == NULL) return -1;
        int failed = PyList_Append(self->stamps, stamp);
        Py_DECREF(stamp);
        return failed ? failed : PyList_Append(self->payloads, data);
    }
    if (self->chunk != NULL) {
        PyObject *done = PyObject_CallOneArg(self->chunk, data);
        Py_XDECREF(done);
        return done == NULL ? -1 : 0;
    }
    return 0;
}

static PyObject *tap_feed(Tap *self, PyObject *data) {
    int64_t now = monotonic_ns();
    if (keep(self, data, now) < 0) return NULL;
    if (PyBytes_CheckExact(data)) {
        Py_ssize_t size = PyBytes_GET_SIZE(data);
        self->left_bytes -= size;
        self->left_reads -= 1;
        if (self->quiet && size >= 4 && memcmp(PyBytes_AS_STRING(data) + size - 4, "\n\n\r\n", 4) == 0 &&
            self->left_bytes >= 0 && self->left_reads >= 0)
            Py_RETURN_NONE;
    }
    return PyObject_CallOneArg(self->look, data);
}

static PyObject *tap_listen(Tap *self, PyObject *args) {
    PyObject *chunk, *stamps, *payloads;
    Py_ssize_t bytes, reads;
    if (!PyArg_ParseTuple(args, "OOOnn", &chunk, &stamps, &payloads, &bytes, &reads)) return NULL;
    if ((stamps != Py_None && !PyList_CheckExact(stamps)) || (payloads != Py_None && !PyList_CheckExact(payloads)) ||
        (stamps == Py_None) != (payloads == Py_None)) {
        PyErr_SetString(PyExc_TypeError, "stamps and payloads are two lists, or None");
        return NULL;
    }
    Py_XSETREF(self->chunk, chunk == Py_None ? NULL : Py_NewRef(chunk));
    Py_XSETREF(self->stamps, stamps == Py_None ? NULL : Py_NewRef(stamps));
    Py_XSETREF(self->payloads, payloads == Py_None ? NULL : Py_NewRef(payloads));
    self->left_bytes = bytes;
    self->left_reads = reads;
    self->quiet = 0;
    Py_RETURN_NONE;
}

static int tap_init(Tap *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"look", NULL};
    PyObject *look;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O", names, &look)) return -1;
    Py_XSETREF(self->look, Py_NewRef(look));
    return 0;
}

static int tap_traverse(Tap *self, visitproc visit, void *arg) {
    Py_VISIT(self->look);
    Py_VISIT(self->chunk);
    Py_VISIT(self->stamps);
    Py_VISIT(self->payloads);
    return 0;
}

static int tap_clear(Tap *self) {
    Py_CLEAR(self->look);
    Py_CLEAR(self->chunk);
    Py_CLEAR(self->stamps);
    Py_CLEAR(self->payloads);
    return 0;
}

static void tap_dealloc(Tap *self) {
    PyObject_GC_UnTrack(self);
    tap_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef tap_methods[] = {
    {"feed", (PyCFunction)tap_feed, METH_O, "feed(data): stamp it, keep it, look at it if need be."},
    {"listen", (PyCFunction)tap_listen, METH_VARARGS, "listen(chunk, stamps, payloads, max_bytes, max_reads): whose reads these are."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef tap_members[] = {
    {"quiet", T_BOOL, offsetof(Tap, quiet), 0, "Whether reads that end with an event's end need no look."},
    {"left_bytes", T_PYSSIZET, offsetof(Tap, left_bytes), READONLY, "Bytes that may still come."},
    {"left_reads", T_PYSSIZET, offsetof(Tap, left_reads), READONLY, "Reads that may still come."},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject TapType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "engines._stream.Tap",
    .tp_doc = "See engines/tap.py.",
    .tp_basicsize = sizeof(Tap),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)tap_init,
    .tp_dealloc = (destructor)tap_dealloc,
    .tp_traverse = (traverseproc)tap_traverse,
    .tp_clear = (inquiry)tap_clear,
    .tp_methods = tap_methods,
    .tp_members = tap_members,
};

/* -- cast --------------------------------------------------------------------------------------- */

typedef struct {
    const char *before, *after;
    Py_ssize_t before_size, after_size;
} Mould;

static int hex_digit(char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
    return -1;
}

/* One event at `place`: a chunk size without leading zero, what stands before the text, the text, what
 * stands after it, together as long as the size says. The place behind it, or NULL; the text by reference. */
static const char *event_at(const char *place, const char *end, const Mould *mould, const char **text, Py_ssize_t *text_size) {
    Py_ssize_t size = 0, digits = 0;
    for (int digit; place < end && digits < 7 && (digit = hex_digit(*place)) >= 0; place++, digits++) size = size * 16 + digit;
    if (digits == 0 || digits == 7 || place[-digits] == '0') return NULL;
    if (end - place < mould->before_size || memcmp(place, mould->before, mould->before_size) != 0) return NULL;
    const char *data = place + 2; /* `before` begins with CR LF */
    const char *quote = place + mould->before_size;
    *text = quote;
    while (quote < end && *quote != '"') quote += *quote == '\\' ? 2 : 1;
    if (quote >= end || end - quote < mould->after_size || memcmp(quote, mould->after, mould->after_size) != 0) return NULL;
    *text_size = quote - *text;
    place = quote + mould->after_size;
    return place - 2 - data == size ? place : NULL; /* `after` ends with CR LF */
}

static PyObject *cast(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *reads;
    Py_ssize_t first, last, room = 4, events = 0;
    Mould mould;
    if (!PyArg_ParseTuple(args, "O!nny#y#", &PyList_Type, &reads, &first, &last, &mould.before, &mould.before_size, &mould.after,
                          &mould.after_size))
        return NULL;
    if (first < 0 || last > PyList_GET_SIZE(reads) || first > last || mould.before_size < 5 || mould.after_size < 3) Py_RETURN_NONE;
    for (Py_ssize_t i = first; i < last; i++) {
        PyObject *read = PyList_GET_ITEM(reads, i);
        if (!PyBytes_CheckExact(read)) Py_RETURN_NONE;
        room += PyBytes_GET_SIZE(read);
    }
    PyObject *counts = PyList_New(last - first);
    char *texts = PyMem_Malloc(room), *out = texts; /* an event's framing is longer than the 3 bytes between two texts */
    if (counts == NULL || texts == NULL) {
        Py_XDECREF(counts);
        PyMem_Free(texts);
        return PyErr_NoMemory();
    }
    *out++ = '[';
    for (Py_ssize_t i = first; i < last; i++) {
        PyObject *read = PyList_GET_ITEM(reads, i);
        const char *place = PyBytes_AS_STRING(read), *end = place + PyBytes_GET_SIZE(read), *text;
        Py_ssize_t text_size, before = events;
        while (place != NULL && place < end) {
            place = event_at(place, end, &mould, &text, &text_size);
            if (place == NULL) break;
            if (events++) *out++ = ',';
            *out++ = '"';
            memcpy(out, text, text_size);
            out += text_size;
            *out++ = '"';
        }
        PyObject *count = place == NULL ? NULL : PyLong_FromSsize_t(events - before);
        if (count == NULL) {
            Py_DECREF(counts);
            PyMem_Free(texts);
            if (PyErr_Occurred()) return NULL;
            Py_RETURN_NONE;
        }
        PyList_SET_ITEM(counts, i - first, count);
    }
    *out++ = ']';
    PyObject *result = Py_BuildValue("(Nny#)", counts, events, texts, out - texts);
    PyMem_Free(texts);
    return result;
}

/* -- module --------------------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"cast", cast, METH_VARARGS,
     "cast(reads, first, last, before, after): (events in each of reads[first:last], their number, their texts as a JSON list), "
     "or None unless those reads hold whole events of this mould and nothing else."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "engines._stream", .m_doc = "Loops that run once per token.", .m_size = -1, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__stream(void) {
    if (PyType_Ready(&TapType) < 0) return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made == NULL) return NULL;
    if (PyModule_AddObjectRef(made, "Tap", (PyObject *)&TapType) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
