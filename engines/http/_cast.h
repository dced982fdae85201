/* cast: shows that events are alike and takes their texts out. Its twin is in engines/openai/alike.py. */
#include <Python.h>
#include <string.h>

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
    Py_ssize_t first, last, room = 4, events = 0, empty = 0;
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
            empty += text_size == 0;
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
    PyObject *result = Py_BuildValue("(Nnny#)", counts, events, empty, texts, out - texts);
    PyMem_Free(texts);
    return result;
}
