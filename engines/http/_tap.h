/* Tap: stamps and keeps a read, and looks at it only if it could be an answer's last. Its twin is in engines/http/tap.py. */
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>
#include <time.h>

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

/* QUIET_READ of engines/http/http1.py. */
static int ends_quietly(const char *data, size_t size) { return size >= 4 && memcmp(data + size - 4, "\n\n\r\n", 4) == 0; }

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

static PyObject *tap_feed_stamped(Tap *self, PyObject *data, int64_t now) {
    if (keep(self, data, now) < 0) return NULL;
    if (PyBytes_CheckExact(data)) {
        Py_ssize_t size = PyBytes_GET_SIZE(data);
        self->left_bytes -= size;
        self->left_reads -= 1;
        if (self->quiet && ends_quietly(PyBytes_AS_STRING(data), (size_t)size) && self->left_bytes >= 0 && self->left_reads >= 0)
            Py_RETURN_NONE;
    }
    return PyObject_CallOneArg(self->look, data);
}

static PyObject *tap_feed(Tap *self, PyObject *data) { return tap_feed_stamped(self, data, monotonic_ns()); }

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
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "engines.http._stream.Tap",
    .tp_doc = "See engines/http/tap.py.",
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
