/* The turns of a node's loop that serve usual requests, without a call of Python in them.
 *
 * A request that comes alone finds the node asleep, and its caches cold: then it counts how much code and how many objects
 * the turn touches, which receives it, serves it and sends the reply. ``UsualTurns.serve`` does what Server._serve_until
 * does, its specification, with what poller.py does for it: it sleeps until something arrives; and as long as that is usual
 * it serves that (one_turn.c) and sleeps again. It returns when there is anything else to do, or the deadline is reached.
 * What it has received by then, and found not to be usual, it leaves to the inlet.
 *
 * The sockets are *lines* here: the ROUTER, and a DEALER to each peer. A turn takes one message from each line that has
 * one, sends what follows from them, and reads the state of what it has touched. A ROUTER that has more after a client was
 * answered is left to the inlet: it takes all, and their answers leave together. Where nodes wait for each other, the turns
 * go on; but after ``BURST_MAX`` of them the inlet takes over, which knows what to do with a queue that does not empty.
 *
 * Like serve.c it keeps no state of the node. What it only counts, it adds to the node's counters when it returns: they
 * are read by the loop's thread alone. The GIL is held, but for the sleep.
 */

#include "one_turn.h"

#ifdef __linux__

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/epoll.h>

#define EVENTS_AT_ONCE 64
#define SLEEP_MS_MAX 60000
#define BURST_MAX 32

static char *ARGUMENTS[] = {
    "connections", "core", "counters", "expect_large", "inlet", "instant", "latencies", "loop", "number_events", "outbox", "pulse",
    "slow", "undelivered", "usual", "functions", "socket", "router_fd", "epoll_fd", "ask_after_bytes", "large_bytes",
    "slow_turn_s", "stall_s", "started", "wall_ms_at_start", NULL
};
#define AS_TEXT(name, text) text,
static const char *const NAME_TEXTS[NAMES] = { NAME_LIST(AS_TEXT) };

/* -- waiting --------------------------------------------------------------------------------------------------------- */

/* Sleep until a descriptor wakes; return how many have, -1 with an exception. */
static int
sleep_for(Turns *self, double seconds, struct epoll_event *events)
{
    double ms = seconds <= 0 ? 0 : ceil(seconds * 1000);
    int count;
    Py_BEGIN_ALLOW_THREADS
    count = epoll_wait(self->epoll_fd, events, EVENTS_AT_ONCE, ms > SLEEP_MS_MAX ? SLEEP_MS_MAX : (int)ms);
    Py_END_ALLOW_THREADS
    if (count >= 0) {
        return count;
    }
    if (errno == EINTR) {
        return PyErr_CheckSignals() ? -1 : 0;
    }
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

/* Read the state of what was touched; tell how many lines have input. */
static int
read_states(Turns *self)
{
    int ready = 0;
    for (size_t i = 0; i < self->line_count; i++) {
        Line *line = &self->lines[i];
        if (line->is_stirred) {
            line->is_stirred = false;
            line->is_ready = has_input(self, line);
        }
        ready += line->is_ready;
    }
    return ready;
}

/* Note which lines woke; return how many other descriptors did. */
static int
note_woken(Turns *self, const struct epoll_event *events, int count)
{
    int others = 0;
    for (int i = 0; i < count; i++) {
        bool is_line = false;
        for (size_t j = 0; j < self->line_count && !is_line; j++) {
            is_line = self->lines[j].fd == events[i].data.fd;
            self->lines[j].is_ready |= is_line;
        }
        others += !is_line;
    }
    return others;
}

static int
append_woken(PyObject *woken, int fd, uint32_t events)
{
    PyObject *pair = Py_BuildValue("(iI)", fd, events);
    int failed = pair == NULL ? -1 : PyList_Append(woken, pair);
    Py_XDECREF(pair);
    return failed;
}

/* Make the list of the descriptors that woke, each with its events: the lines with input, and others. */
static PyObject *
woken_of(Turns *self, const struct epoll_event *events, int count)
{
    PyObject *woken = PyList_New(0);
    int failed = woken == NULL;
    for (size_t i = 0; i < self->line_count && !failed; i++) {
        failed = self->lines[i].is_ready && append_woken(woken, self->lines[i].fd, EPOLLIN);
    }
    for (int i = 0; i < count && !failed; i++) {
        bool is_line = false;
        for (size_t j = 0; j < self->line_count && !is_line; j++) {
            is_line = self->lines[j].fd == events[i].data.fd;
        }
        failed = !is_line && append_woken(woken, events[i].data.fd, events[i].events);
    }
    if (failed) {
        Py_CLEAR(woken);
    }
    return woken;
}

/* End a run in whose last turn there was more to do. Of what was touched, Python must look at what has input. */
static PyObject *
leave_turns(Turns *self)
{
    PyObject *in_hand = get_attribute(&self->names[N_IN_HAND], self->parts[INLET]);
    if (in_hand == NULL) {
        return NULL;
    }
    read_states(self);
    self->lines[0].is_ready |= in_hand != Py_None;
    Py_DECREF(in_hand);
    return woken_of(self, NULL, 0);
}

static PyObject *
run_turns(Turns *self, Run *run, double deadline)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    Step step = SERVED;
    while (step == SERVED) {
        int ready = read_states(self);
        double left_s = deadline - clock_s(CLOCK_MONOTONIC);
        run->burst = self->lines[0].is_ready ? run->burst + 1 : 0;
        int count = sleep_for(self, ready ? 0 : left_s, events);
        if (count < 0) {
            return NULL;
        }
        int others = note_woken(self, events, count);
        bool is_for_inlet = run->burst > BURST_MAX || (run->burst > 0 && run->has_answered);
        if (others || left_s <= 0 || is_for_inlet || (count == 0 && ready == 0)) {
            return woken_of(self, events, count);
        }
        run->has_answered = false;
        step = turn(self, run);
    }
    return step == WRONG ? NULL : leave_turns(self);
}

/* Add what was counted to the node's counters. */
static int
count_run(Turns *self, const Run *run)
{
    PyObject *counters = self->parts[COUNTERS], *loop = self->parts[LOOP];
    if (add_number(self, counters, N_REQUESTS_IN_BYTES, run->in_bytes) ||
        add_number(self, counters, N_ANSWERS_OUT_BYTES, run->out_bytes) ||
        add_number(self, counters, N_REQUESTS_OUT_BYTES, run->asked_bytes) ||
        add_number(self, counters, N_ANSWERS_IN_BYTES, run->answered_bytes) || add_number(self, loop, N_TURNS, run->turns)) {
        return -1;
    }
    double busy_s = run->busy_s > 0 ? seconds_of(self, loop, N_BUSY_S) : 0;
    return PyErr_Occurred() ? -1 : run->busy_s > 0 ? set_seconds(self, loop, N_BUSY_S, busy_s + run->busy_s) : 0;
}

/* Make the lines of the sockets to peers: of a tuple of (descriptor, socket, address, inlet), which is kept. */
static int
take_peers(Turns *self, PyObject *peers)
{
    if (!PyTuple_CheckExact(peers)) {
        PyErr_SetString(PyExc_TypeError, "peers must be a tuple");
        return -1;
    }
    size_t count = (size_t)PyTuple_GET_SIZE(peers) + 1;
    Line *lines = PyMem_Calloc(count, sizeof *lines);
    if (lines == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    lines[0] = self->router;
    for (size_t i = 1; i < count; i++) {
        Line *line = &lines[i];
        unsigned long long socket;
        PyObject *peer = PyTuple_GET_ITEM(peers, (Py_ssize_t)i - 1);
        if (!PyTuple_CheckExact(peer) || !PyArg_ParseTuple(peer, "iKUO", &line->fd, &socket, &line->address, &line->inlet)) {
            PyMem_Free(lines);
            return -1;
        }
        line->socket = (void *)(uintptr_t)socket;
    }
    PyMem_Free(self->lines);
    Py_XSETREF(self->peers, Py_NewRef(peers));
    self->lines = lines;
    self->line_count = count;
    return 0;
}

/* Begin a run: whatever was done with a line before, its state is to be read. */
static int
begin_run(Turns *self, Run *run, PyObject *peers)
{
    if (peers != self->peers && take_peers(self, peers)) {
        return -1;
    }
    for (size_t i = 0; i < self->line_count; i++) {
        self->lines[i].is_stirred = true;
        self->lines[i].is_ready = false;
    }
    run->has_answered = true;
    run->now = seconds_of(self, self->parts[INSTANT], N_NOW);
    run->longest_turn_ms = seconds_of(self, self->parts[COUNTERS], N_LONGEST_TURN_MS);
    run->held = PyErr_Occurred() ? NULL : PyMem_Calloc(self->line_count, sizeof *run->held);
    if (run->held == NULL && !PyErr_Occurred()) {
        PyErr_NoMemory();
    }
    return run->held == NULL ? -1 : 0;
}

static PyObject *
turns_serve(Turns *self, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 4 || self->parts[0] == NULL) {
        PyErr_SetString(PyExc_TypeError, "serve takes a deadline, two fields of the clock, and the sockets to peers");
        return NULL;
    }
    Run run = {0};
    double deadline = PyFloat_AsDouble(arguments[0]);
    run.stood_still_s = PyFloat_AsDouble(arguments[1]);
    run.ahead_s_max = PyFloat_AsDouble(arguments[2]);
    if (PyErr_Occurred() || begin_run(self, &run, arguments[3])) {
        return NULL;
    }
    PyObject *woken = run_turns(self, &run, deadline);
    release(&run);
    PyMem_Free(run.held);
    if (woken != NULL && count_run(self, &run)) {
        Py_CLEAR(woken);
    }
    return woken;
}

/* -- many at once ---------------------------------------------------------------------------------------------------- */

/* What is gathered: small frames that begin so. */
typedef struct {
    long most;
    size_t size_max;
    const char *head;
    size_t head_size;
} Wanted;

static bool
is_wanted(Turns *self, const Wanted *wanted, Message *message)
{
    size_t size = self->zmq.msg_size(message);
    return !self->zmq.msg_more(message) && size >= wanted->head_size && size <= wanted->size_max &&
           memcmp(self->zmq.msg_data(message), wanted->head, wanted->head_size) == 0;
}

/* Put a frame behind the others of its connection. */
static int
add_frame(PyObject *gathered, PyObject *origin, PyObject *frame)
{
    PyObject *frames = Py_XNewRef(PyDict_GetItemWithError(gathered, origin));
    if (frames == NULL && !PyErr_Occurred() && (frames = PyList_New(0)) != NULL && PyDict_SetItem(gathered, origin, frames)) {
        Py_CLEAR(frames);
    }
    int failed = frames == NULL ? -1 : PyList_Append(frames, frame);
    Py_XDECREF(frames);
    return failed;
}

/* Receive the frame of a connection that is known. *other is what is not wanted: the connection, and its frame. */
static Step
gather_frame(Turns *self, const Wanted *wanted, PyObject *gathered, PyObject *origin, PyObject **other)
{
    Message message;
    if (receive(self, &self->router, &message)) {
        return LEFT; /* libzmq hands over whole messages: the socket is closed, say */
    }
    size_t size = self->zmq.msg_size(&message);
    int failed = size >= self->large_bytes ? call(self->parts[EXPECT_LARGE], NULL, NULL) : 0;
    PyObject *frame = failed ? NULL : bytes_of(self, &message);
    Step step = WRONG;
    if (frame != NULL && is_wanted(self, wanted, &message)) {
        step = add_frame(gathered, origin, frame) ? WRONG : SERVED;
    }
    else if (frame != NULL) {
        *other = PyTuple_Pack(2, origin, frame);
        step = *other == NULL ? WRONG : LEFT;
    }
    Py_XDECREF(frame);
    self->zmq.msg_close(&message);
    return step;
}

/* Receive a message. LEFT: there is none, or *other is what is not wanted. */
static Step
gather_one(Turns *self, const Wanted *wanted, PyObject *gathered, PyObject **other)
{
    Message message;
    if (receive(self, &self->router, &message)) {
        return LEFT;
    }
    PyObject *origin = bytes_of(self, &message);
    self->zmq.msg_close(&message);
    PyObject *connection = origin == NULL ? NULL : connection_of(self, origin);
    Step step = WRONG;
    if (connection != NULL) {
        step = gather_frame(self, wanted, gathered, origin, other);
    }
    else if (origin != NULL && !PyErr_Occurred()) {
        *other = PyTuple_Pack(1, origin);
        step = *other == NULL ? WRONG : LEFT;
    }
    Py_XDECREF(connection);
    Py_XDECREF(origin);
    return step;
}

static PyObject *
turns_gather(Turns *self, PyObject *arguments)
{
    Wanted wanted;
    Py_ssize_t size_max, head_size;
    if (!PyArg_ParseTuple(arguments, "lny#:gather", &wanted.most, &size_max, &wanted.head, &head_size)) {
        return NULL;
    }
    wanted.size_max = (size_t)size_max;
    wanted.head_size = (size_t)head_size;
    PyObject *gathered = PyDict_New(), *other = NULL, *told = NULL;
    Step step = gathered == NULL ? WRONG : SERVED;
    for (long left = wanted.most; step == SERVED && left > 0; left--) {
        step = gather_one(self, &wanted, gathered, &other);
    }
    if (step != WRONG) {
        told = PyTuple_Pack(2, gathered, other == NULL ? Py_None : other);
    }
    Py_XDECREF(other);
    Py_XDECREF(gathered);
    return told;
}

/* -- the type -------------------------------------------------------------------------------------------------------- */

static int
turns_traverse(Turns *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (int i = 0; i < PARTS; i++) {
        Py_VISIT(self->parts[i]);
    }
    Py_VISIT(self->peers);
    for (int i = 0; i < NAMES; i++) {
        for (int j = 0; j < CLASSES_A_NAME; j++) {
            Py_VISIT(self->names[i].slots[j].class);
        }
    }
    return 0;
}

static int
turns_clear(Turns *self)
{
    for (int i = 0; i < PARTS; i++) {
        Py_CLEAR(self->parts[i]);
    }
    for (int i = 0; i < NAMES; i++) {
        clear_name(&self->names[i]);
    }
    Py_CLEAR(self->peers);
    PyMem_Free(self->lines);
    self->lines = NULL;
    self->line_count = 0;
    return 0;
}

static void
turns_dealloc(Turns *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    turns_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Take the functions of libzmq by their addresses. */
static int
take_functions(Turns *self, PyObject *addresses)
{
    void *found[FUNCTIONS];
    if (!PyTuple_Check(addresses) || PyTuple_GET_SIZE(addresses) != FUNCTIONS) {
        PyErr_Format(PyExc_TypeError, "functions must be %d addresses", FUNCTIONS);
        return -1;
    }
    for (int i = 0; i < FUNCTIONS; i++) {
        found[i] = PyLong_AsVoidPtr(PyTuple_GET_ITEM(addresses, i));
        if (found[i] == NULL) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_ValueError, "an address of functions is 0");
            }
            return -1;
        }
    }
    _Static_assert(sizeof(Zmq) == sizeof found, "one address for each function");
    memcpy(&self->zmq, found, sizeof found);
    return 0;
}

/* Check that a part is what its methods need not check any more. */
static int
check_usual(PyTypeObject *type, PyObject *usual)
{
    PyObject *module = PyType_GetModule(type);
    PyObject *wanted = module == NULL ? NULL : PyObject_GetAttrString(module, "UsualRequests");
    int is_one = wanted == NULL ? -1 : PyObject_IsInstance(usual, wanted);
    Py_XDECREF(wanted);
    if (is_one == 0) {
        PyErr_SetString(PyExc_TypeError, "usual must be a UsualRequests");
    }
    return is_one == 1 ? 0 : -1;
}

static PyObject *
turns_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    Turns *self = (Turns *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    PyObject **p = self->parts, *functions;
    unsigned long long socket;
    long long ask_after_bytes, large_bytes, wall_ms_at_start;
    if (!PyArg_ParseTupleAndKeywords(
            arguments, named, "$OOOOOOOOOOOOOOOKiiLLdddL:UsualTurns", ARGUMENTS, &p[CONNECTIONS], &p[CORE], &p[COUNTERS],
            &p[EXPECT_LARGE], &p[INLET], &p[INSTANT], &p[LATENCIES], &p[LOOP], &p[NUMBER_EVENTS], &p[OUTBOX], &p[PULSE], &p[SLOW],
            &p[UNDELIVERED], &p[USUAL], &functions, &socket, &self->router.fd, &self->epoll_fd, &ask_after_bytes,
            &large_bytes, &self->slow_turn_s, &self->stall_s, &self->started, &wall_ms_at_start)) {
        for (int i = 0; i < PARTS; i++) {
            p[i] = NULL; /* borrowed */
        }
        Py_DECREF(self);
        return NULL;
    }
    for (int i = 0; i < PARTS; i++) {
        Py_INCREF(p[i]);
    }
    self->router.socket = (void *)(uintptr_t)socket;
    self->ask_after_bytes = ask_after_bytes;
    self->large_bytes = (size_t)large_bytes;
    self->wall_ms_at_start = wall_ms_at_start;
    int failed = take_functions(self, functions) || check_usual(type, p[USUAL]);
    for (int i = 0; i < NAMES && !failed; i++) {
        failed = make_name(&self->names[i], NAME_TEXTS[i]);
    }
    if (failed) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyMethodDef turns_methods[] = {
    {"serve", (PyCFunction)(void (*)(void))turns_serve, METH_FASTCALL,
     "Serve what is usual and comes alone until the deadline, or until there is something else to do. Returns the "
     "descriptors that woke, with their events."},
    {"gather", (PyCFunction)turns_gather, METH_VARARGS,
     "Receive small frames that begin alike, so many at most, until something else comes. Returns them by connection, and "
     "what else came: its connection, and its frame if that was received; or None."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot turns_slots[] = {
    {Py_tp_doc, "Turns of a node's loop that serve one usual request."},
    {Py_tp_new, turns_new},
    {Py_tp_dealloc, turns_dealloc},
    {Py_tp_traverse, turns_traverse},
    {Py_tp_clear, turns_clear},
    {Py_tp_methods, turns_methods},
    {0, NULL},
};

PyType_Spec turns_spec = {
    .name = "meshcache._native._compiled.UsualTurns",
    .basicsize = sizeof(Turns),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = turns_slots,
};

#endif
