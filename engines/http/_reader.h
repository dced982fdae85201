/* Reader: reads sockets on a thread of its own, so that no stamp waits for the event loop or for Python.
 *
 * The thread does what the event loop would do up to Tap and no more: wait, read, stamp, keep. When a
 * read could be an answer's last, it rings (a readable eventfd); the event loop then moves what has
 * arrived into the connection's Tap, stamps and all, as if it had been fed read by read. The thread
 * holds no Python object and never asks for the interpreter's lock.
 *
 * A read's stamp is the kernel's, of when its last packet came in (_arrival.h), so that a late read isn't a late
 * stamp. Where much arrives, the thread therefore naps between its turns: one wake-up then serves many tokens.
 *
 * Sockets are watched for edges, which spares the kernel a look at each of them at every wait: so what is
 * ready is read until a read comes back short, and until its end where the peer has closed.
 *
 * One lock guards the slots. The thread holds it while it reads what is ready, Python while it takes
 * pointers over. A slot's id carries a generation, so that events of a closed slot find nothing.
 *
 * Linux only (epoll, eventfd).
 */
#include <Python.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SCRATCH_BYTES (64 * 1024)
#define RING_BYTES (256 * 1024)     /* kept in the thread before the event loop is asked to take it */
#define RING_READS 4096
#define HOLD_BYTES (1024 * 1024)    /* kept in the thread before it stops reading, so that the server waits */
#define MAX_EVENTS 256
#define STOP_ID UINT64_MAX
#define EDGES (EPOLLIN | EPOLLRDHUP | EPOLLET)
#define AT_END (EPOLLRDHUP | EPOLLHUP | EPOLLERR)
#define ENDED_BY_PEER (-1)

typedef struct {
    int64_t stamp_ns;
    size_t size;
} Read;

typedef struct {
    char *bytes;
    size_t size, room;
    Read *reads;
    size_t count, reads_room;
} Kept;

typedef struct {
    uint64_t id;
    int fd;
    Tap *tap;       /* owned */
    PyObject *lost; /* owned; told of the end */
    Kept kept;
    int64_t stamp_ns; /* of the last read */
    int ended;      /* 0, ENDED_BY_PEER or an errno */
    char ringing, held, told;
    char plain; /* the answer began as most do, so that nothing needs a look until it could end */
} Slot;

typedef struct {
    PyObject_HEAD
    int epoll, bell, stop;
    char running, rung;
    pthread_t thread;
    pthread_mutex_t lock;
    Slot **slots; /* by index; NULL: free */
    uint32_t *generations;
    size_t slots_room;
    uint64_t *rings;
    size_t rings_count, rings_room;
    char *scratch;
    KernelClock clock; /* this and the next are the thread's own */
    Pace pace;
    int64_t reads, arrivals, naps; /* arrivals: reads with the kernel's stamp; written by the thread alone */
} Reader;

/* -- on the thread ---------------------------------------------------------------------------------- */

static Slot *slot_of(Reader *self, uint64_t id) {
    size_t index = (uint32_t)id;
    Slot *slot = index < self->slots_room ? self->slots[index] : NULL;
    return slot != NULL && slot->id == id ? slot : NULL;
}

static int grow(void **array, size_t *room, size_t needed, size_t item, size_t first) {
    if (needed <= *room) return 1;
    size_t wanted = *room ? *room : first;
    while (wanted < needed) wanted *= 2;
    void *grown = realloc(*array, wanted * item);
    if (grown == NULL) return 0;
    *array = grown;
    *room = wanted;
    return 1;
}

/* The kernel's stamp where it lies between the connection's read before and now, else now. */
static int64_t stamp_of(Reader *self, Slot *slot, int64_t arrived_ns) {
    int64_t now = monotonic_ns(), before = slot->stamp_ns;
    int stamped = arrived_ns > 0 && arrived_ns >= before - CLOCKS_APART_NS && arrived_ns <= now;
    slot->stamp_ns = !stamped ? now : arrived_ns > before ? arrived_ns : before;
    count_read(&self->pace, stamped, slot->kept.count ? slot->stamp_ns - before : 0);
    self->reads += 1;
    self->arrivals += stamped;
    return slot->stamp_ns;
}

static int keep_read(Kept *kept, const char *data, size_t size, int64_t stamp_ns) {
    if (!grow((void **)&kept->bytes, &kept->room, kept->size + size, 1, 16 * 1024)) return 0;
    if (!grow((void **)&kept->reads, &kept->reads_room, kept->count + 1, sizeof(Read), 64)) return 0;
    memcpy(kept->bytes + kept->size, data, size);
    kept->size += size;
    kept->reads[kept->count++] = (Read){stamp_ns, size};
    return 1;
}

static void end_slot(Reader *self, Slot *slot, int why) {
    slot->ended = why;
    epoll_ctl(self->epoll, EPOLL_CTL_DEL, slot->fd, NULL);
}

/* Whether an answer that begins so is a stream in chunks, with its whole head here and no end in sight. What
 * exactly the head says is found out by Python, later; a head that isn't recognised here is looked at at once. */
static int begins_plainly(const char *data, size_t size) {
    static const char status[] = "HTTP/1.1 200", coding[] = "\r\ntransfer-encoding: chunked\r\n";
    if (size < sizeof status || memcmp(data, status, sizeof status - 1) != 0) return 0;
    const char *head_end = memmem(data, size, "\r\n\r\n", 4);
    for (const char *at = data; head_end != NULL && (at = memchr(at, '\r', (size_t)(head_end - at))) != NULL; at++)
        if ((size_t)(head_end + 2 - at) >= sizeof coding - 1 && strncasecmp(at, coding, sizeof coding - 1) == 0) return 1;
    return 0;
}

/* Whether the event loop may learn of this read together with the next. */
static int is_quiet(Slot *slot, const char *data, size_t size) {
    if (!ends_quietly(data, size)) return 0;
    if (slot->kept.count == 1 && !slot->tap->quiet) slot->plain = begins_plainly(data, size);
    return slot->plain || slot->tap->quiet;
}

/* Read once. Whether the event loop must know; `more` is set where there may be more to read now: `at_end` says
 * that the end itself is still to be read, of which no edge will tell. */
static int read_once(Reader *self, Slot *slot, int at_end, int *more) {
    int64_t arrived_ns;
    ssize_t got = receive(slot->fd, self->scratch, SCRATCH_BYTES, &self->clock, &arrived_ns);
    *more = got == SCRATCH_BYTES || (got > 0 && at_end) || (got < 0 && errno == EINTR);
    if (got > 0 && !keep_read(&slot->kept, self->scratch, (size_t)got, stamp_of(self, slot, arrived_ns))) {
        end_slot(self, slot, ENOMEM);
        return 1;
    }
    if (got > 0) {
        if (slot->kept.size >= HOLD_BYTES && !slot->held) {
            struct epoll_event nothing = {.events = EPOLLET, .data.u64 = slot->id};
            slot->held = epoll_ctl(self->epoll, EPOLL_CTL_MOD, slot->fd, &nothing) == 0;
        }
        return !is_quiet(slot, self->scratch, (size_t)got) || slot->kept.size >= RING_BYTES || slot->kept.count >= RING_READS;
    }
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return 0;
    end_slot(self, slot, got == 0 ? ENDED_BY_PEER : errno);
    return 1;
}

static int read_slot(Reader *self, Slot *slot, uint32_t events) {
    int must_ring = 0, more = 1;
    while (more && !slot->ended && !slot->held) must_ring |= read_once(self, slot, (events & AT_END) != 0, &more);
    return must_ring;
}

static void ring_for(Reader *self, Slot *slot) { /* room for every slot was made when it was added */
    if (slot->ringing || self->rings_count >= self->rings_room) return;
    slot->ringing = 1;
    self->rings[self->rings_count++] = slot->id;
}

static void ring(int bell) {
    uint64_t one = 1;
    while (write(bell, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

static void let_gather(Reader *self) {
    int64_t ns = nap_ns(&self->pace, monotonic_ns());
    if (ns <= 0) return;
    self->naps += 1;
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

static void *read_all(void *argument) {
    Reader *self = argument;
    struct epoll_event events[MAX_EVENTS];
    for (int stopped = 0; !stopped;) {
        int ready = epoll_wait(self->epoll, events, MAX_EVENTS, -1), must_ring = 0;
        if (ready < 0 && errno != EINTR) break;
        compare_clocks(&self->clock);
        pthread_mutex_lock(&self->lock);
        for (int i = 0; i < ready; i++) {
            stopped |= events[i].data.u64 == STOP_ID;
            Slot *slot = slot_of(self, events[i].data.u64);
            if (slot != NULL && !slot->ended && read_slot(self, slot, events[i].events)) ring_for(self, slot);
        }
        if (self->rings_count && !self->rung) must_ring = self->rung = 1;
        pthread_mutex_unlock(&self->lock);
        if (must_ring) ring(self->bell);
        if (!stopped) let_gather(self);
    }
    return NULL;
}

/* -- on the event loop -------------------------------------------------------------------------------- */

static void lock(Reader *self) {
    if (pthread_mutex_trylock(&self->lock) == 0) return;
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&self->lock);
    Py_END_ALLOW_THREADS
}

static void unlock(Reader *self) { pthread_mutex_unlock(&self->lock); }

static void free_kept(Kept *kept) {
    free(kept->bytes);
    free(kept->reads);
    *kept = (Kept){0};
}

/* Give the slot's reads to its tap, in order, until one of them closes the slot. 0, or -1 with an exception. */
static int feed_tap(Reader *self, uint64_t id, Tap *tap, const Kept *kept) {
    const char *place = kept->bytes;
    for (size_t i = 0; i < kept->count; place += kept->reads[i++].size) {
        PyObject *data = PyBytes_FromStringAndSize(place, (Py_ssize_t)kept->reads[i].size);
        PyObject *done = data == NULL ? NULL : tap_feed_stamped(tap, data, kept->reads[i].stamp_ns);
        Py_XDECREF(data);
        if (done == NULL) return -1;
        Py_DECREF(done);
        if (slot_of(self, id) == NULL) break;
    }
    return 0;
}

static int take(Reader *self, uint64_t id) {
    lock(self);
    Slot *slot = slot_of(self, id);
    if (slot == NULL || slot->told) {
        unlock(self);
        return 0;
    }
    Kept kept = slot->kept;
    int ended = slot->ended;
    slot->kept = (Kept){0};
    slot->ringing = slot->plain = 0;
    if (slot->held && !ended) {
        struct epoll_event readable = {.events = EDGES, .data.u64 = id}; /* tells of what is there already, too */
        slot->held = epoll_ctl(self->epoll, EPOLL_CTL_MOD, slot->fd, &readable) != 0;
    }
    slot->told = ended != 0;
    Tap *tap = (Tap *)Py_NewRef(slot->tap);
    PyObject *lost = Py_NewRef(slot->lost);
    unlock(self);
    int failed = feed_tap(self, id, tap, &kept);
    free_kept(&kept);
    if (!failed && ended && slot_of(self, id) != NULL) {
        PyObject *done = PyObject_CallFunction(lost, "i", ended == ENDED_BY_PEER ? 0 : ended);
        failed = done == NULL ? -1 : 0;
        Py_XDECREF(done);
    }
    Py_DECREF(tap);
    Py_DECREF(lost);
    return failed;
}

static PyObject *reader_take(Reader *self, PyObject *argument) {
    unsigned long long id = PyLong_AsUnsignedLongLong(argument);
    if (id == (unsigned long long)-1 && PyErr_Occurred()) return NULL;
    if (take(self, id) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *reader_dispatch(Reader *self, PyObject *Py_UNUSED(none)) {
    uint64_t count;
    if (read(self->bell, &count, sizeof count) < 0 && errno != EAGAIN && errno != EINTR) return PyErr_SetFromErrno(PyExc_OSError);
    lock(self);
    size_t many = self->rings_count;
    uint64_t *ids = many ? malloc(many * sizeof *ids) : NULL;
    if (ids != NULL) memcpy(ids, self->rings, many * sizeof *ids);
    if (ids != NULL || many == 0) self->rings_count = self->rung = 0;
    unlock(self);
    if (many && ids == NULL) return PyErr_NoMemory();
    for (size_t i = 0; i < many; i++)
        if (take(self, ids[i]) < 0) PyErr_WriteUnraisable((PyObject *)self);
    free(ids);
    Py_RETURN_NONE;
}

static int make_room(Reader *self) {
    if (self->slots_room > UINT32_MAX / 2) return 0;
    size_t room = self->slots_room ? self->slots_room * 2 : 64;
    Slot **slots = realloc(self->slots, room * sizeof *slots);
    if (slots == NULL) return 0;
    self->slots = slots;
    uint32_t *generations = realloc(self->generations, room * sizeof *generations);
    if (generations == NULL) return 0;
    self->generations = generations;
    for (size_t i = self->slots_room; i < room; i++) slots[i] = NULL, generations[i] = 0;
    self->slots_room = room;
    return 1;
}

/* A free index, or -1; the rings get room for one more than there are slots. */
static Py_ssize_t free_index(Reader *self) {
    size_t index = 0;
    while (index < self->slots_room && self->slots[index] != NULL) index++;
    if (index == self->slots_room && !make_room(self)) return -1;
    return grow((void **)&self->rings, &self->rings_room, self->rings_count + self->slots_room, sizeof *self->rings, 64) ? (Py_ssize_t)index : -1;
}

static PyObject *reader_add(Reader *self, PyObject *args) {
    int fd;
    PyObject *tap, *lost;
    if (!PyArg_ParseTuple(args, "iO!O", &fd, &TapType, &tap, &lost)) return NULL;
    Slot *slot = calloc(1, sizeof *slot);
    if (slot == NULL) return PyErr_NoMemory();
    lock(self);
    Py_ssize_t index = self->running ? free_index(self) : -1;
    int problem = index < 0 ? (self->running ? ENOMEM : EBADF) : 0;
    if (!problem) {
        ask_for_stamps(fd);
        *slot = (Slot){.id = (uint64_t)++self->generations[index] << 32 | (uint32_t)index, .fd = fd, .tap = (Tap *)tap, .lost = lost};
        struct epoll_event readable = {.events = EDGES, .data.u64 = slot->id};
        problem = epoll_ctl(self->epoll, EPOLL_CTL_ADD, fd, &readable) ? errno : 0;
    }
    if (!problem) {
        Py_INCREF(tap);
        Py_INCREF(lost);
        self->slots[index] = slot;
    }
    unlock(self);
    if (!problem) return PyLong_FromUnsignedLongLong(slot->id);
    free(slot);
    errno = problem;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static void drop(Reader *self, size_t index) { /* locked; releases the lock for Python's objects */
    Slot *slot = self->slots[index];
    self->slots[index] = NULL;
    if (!slot->ended) epoll_ctl(self->epoll, EPOLL_CTL_DEL, slot->fd, NULL);
    unlock(self);
    Py_DECREF(slot->tap);
    Py_DECREF(slot->lost);
    free_kept(&slot->kept);
    free(slot);
}

static PyObject *reader_remove(Reader *self, PyObject *argument) {
    unsigned long long id = PyLong_AsUnsignedLongLong(argument);
    if (id == (unsigned long long)-1 && PyErr_Occurred()) return NULL;
    lock(self);
    if (slot_of(self, id) != NULL) drop(self, (uint32_t)id);
    else unlock(self);
    Py_RETURN_NONE;
}

static PyObject *reader_fileno(Reader *self, PyObject *Py_UNUSED(none)) { return PyLong_FromLong(self->bell); }

static PyObject *reader_cpu_ns(Reader *self, PyObject *Py_UNUSED(none)) {
    clockid_t clock;
    struct timespec used = {0};
    if (self->running && pthread_getcpuclockid(self->thread, &clock) == 0) clock_gettime(clock, &used);
    return PyLong_FromLongLong((long long)used.tv_sec * 1000000000 + used.tv_nsec);
}

static PyObject *reader_counts(Reader *self, PyObject *Py_UNUSED(none)) {
    return Py_BuildValue("{sLsLsL}", "reads", (long long)self->reads, "kernel_stamped_reads", (long long)self->arrivals, "naps", (long long)self->naps);
}

static void stop_thread(Reader *self) {
    if (!self->running) return;
    ring(self->stop);
    Py_BEGIN_ALLOW_THREADS
    pthread_join(self->thread, NULL);
    Py_END_ALLOW_THREADS
    self->running = 0;
}

static void shut(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static PyObject *reader_close(Reader *self, PyObject *Py_UNUSED(none)) {
    stop_thread(self);
    for (size_t i = 0; i < self->slots_room; i++) {
        lock(self);
        if (self->slots[i] != NULL) drop(self, i);
        else unlock(self);
    }
    shut(&self->epoll);
    shut(&self->bell);
    shut(&self->stop);
    Py_RETURN_NONE;
}

static int start_thread(Reader *self) {
    sigset_t all, before;
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int problem = pthread_create(&self->thread, NULL, read_all, self);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (problem == 0) pthread_setname_np(self->thread, "bmp-reader");
    self->running = problem == 0;
    errno = problem;
    return problem ? -1 : 0;
}

static PyObject *reader_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs)) {
    Reader *self = (Reader *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    pthread_mutex_init(&self->lock, NULL);
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    self->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    self->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    self->scratch = malloc(SCRATCH_BYTES);
    compare_clocks(&self->clock);
    struct epoll_event stop = {.events = EPOLLIN, .data.u64 = STOP_ID};
    if (self->epoll < 0 || self->bell < 0 || self->stop < 0 || self->scratch == NULL ||
        epoll_ctl(self->epoll, EPOLL_CTL_ADD, self->stop, &stop) < 0 || start_thread(self) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int reader_traverse(Reader *self, visitproc visit, void *arg) {
    for (size_t i = 0; i < self->slots_room; i++)
        if (self->slots[i] != NULL) {
            Py_VISIT(self->slots[i]->tap);
            Py_VISIT(self->slots[i]->lost);
        }
    return 0;
}

static int reader_clear(Reader *self) {
    Py_XDECREF(reader_close(self, NULL));
    return 0;
}

static void reader_dealloc(Reader *self) {
    PyObject_GC_UnTrack(self);
    reader_clear(self);
    free(self->slots);
    free(self->generations);
    free(self->rings);
    free(self->scratch);
    pthread_mutex_destroy(&self->lock);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef reader_methods[] = {
    {"fileno", (PyCFunction)reader_fileno, METH_NOARGS, "fileno(): readable when dispatch is due."},
    {"dispatch", (PyCFunction)reader_dispatch, METH_NOARGS, "dispatch(): feed the taps of all connections that rang."},
    {"add", (PyCFunction)reader_add, METH_VARARGS,
     "add(fd, tap, lost): read this socket from now on; its id. lost(errno) is called at its end, 0 where the peer closed."},
    {"take", (PyCFunction)reader_take, METH_O, "take(id): feed the tap with what has arrived."},
    {"remove", (PyCFunction)reader_remove, METH_O, "remove(id): read it no more; what was not taken is dropped."},
    {"cpu_ns", (PyCFunction)reader_cpu_ns, METH_NOARGS, "cpu_ns(): processor time of the thread so far."},
    {"counts", (PyCFunction)reader_counts, METH_NOARGS, "counts(): reads, those with the kernel's stamp, and naps so far."},
    {"close", (PyCFunction)reader_close, METH_NOARGS, "close(): end the thread and forget all connections."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject ReaderType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "engines.http._stream.Reader",
    .tp_doc = "See engines/http/reader.py.",
    .tp_basicsize = sizeof(Reader),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = reader_new,
    .tp_dealloc = (destructor)reader_dealloc,
    .tp_traverse = (traverseproc)reader_traverse,
    .tp_clear = (inquiry)reader_clear,
    .tp_methods = reader_methods,
};
