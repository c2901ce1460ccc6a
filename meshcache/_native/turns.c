/* The turns of a node's loop that serve one usual request, without a call of Python in them.
 *
 * A request that comes alone finds the node asleep, and its caches cold: then it counts how much code and how many objects
 * the turn touches, which receives it, serves it and sends the reply. ``UsualTurns.serve`` does what Server._serve_until
 * does, its specification, with what poller.py, intake.py and connections.py do for it: it sleeps until something
 * arrives; and as long as that is one usual request at the ROUTER, and no more, it serves that and sleeps again. It
 * returns when there is anything else to do, or the deadline is reached. What it has received by then, and found not to
 * be usual, it leaves to the inlet (``RequestInlet.in_hand``).
 *
 * Like serve.c it keeps no state of the node. What it only counts, it adds to the node's counters when it returns: they
 * are read by the loop's thread alone.
 *
 * libzmq is the one that pyzmq has loaded. Its functions are given as addresses, because there is nothing to link with;
 * their types here are those of zmq.h, which have not changed since libzmq 4.1. No call waits (ZMQ_DONTWAIT), so the GIL
 * is held, but for the sleep.
 */

#include "turns.h"

#ifdef __linux__

#include <errno.h>
#include <math.h>
#include <sys/epoll.h>
#include <time.h>

#include "serve.h"

#define ZMQ_EVENTS 15
#define ZMQ_POLLIN 1
#define ZMQ_DONTWAIT 1
#define ZMQ_SNDMORE 2

#define EXPIRY_BYTES 6
#define EVENTS_AT_ONCE 64
#define SLEEP_MS_MAX 60000

typedef union {
    unsigned char bytes[64];
    void *aligned;
} Message;

/* Functions of libzmq, in the order of their addresses as arguments. */
enum function { ERRNO, GETSOCKOPT, MSG_CLOSE, MSG_DATA, MSG_INIT, MSG_MORE, MSG_RECV, MSG_SIZE, SEND, FUNCTIONS };

typedef struct {
    int (*error)(void);
    int (*getsockopt)(void *socket, int option, void *value, size_t *size);
    int (*msg_close)(Message *message);
    void *(*msg_data)(Message *message);
    int (*msg_init)(Message *message);
    int (*msg_more)(const Message *message);
    int (*msg_recv)(Message *message, void *socket, int flags);
    size_t (*msg_size)(const Message *message);
    int (*send)(void *socket, const void *data, size_t size, int flags);
} Zmq;

/* The parts of the node that are worked with, by their names as arguments. */
enum part {
    CONNECTIONS, CORE, COUNTERS, EXPECT_LARGE, INLET, INSTANT, LOOP, NUMBER_EVENTS, OUTBOX, PULSE, SLOW, UNDELIVERED,
    USUAL, PARTS
};
static char *ARGUMENTS[] = {
    "connections", "core", "counters", "expect_large", "inlet", "instant", "loop", "number_events", "outbox", "pulse",
    "slow", "undelivered", "usual", "functions", "socket", "router_fd", "epoll_fd", "ask_after_bytes", "large_bytes",
    "slow_turn_s", "stall_s", "started", "wall_ms_at_start", NULL
};

/* Names of what is looked at in them. */
enum name {
    N_ANSWERS_OUT_BYTES, N_BUSY_S, N_BYTES_LEFT, N_DISTURBED, N_EVENTS, N_GET, N_HAND, N_IN_HAND, N_KNOWN,
    N_LONGEST_TURN_MS, N_NOW, N_NOW_BYTES, N_REQUESTS_IN_BYTES, N_REVIEW_AT_BYTES, N_SUBSCRIBED, N_TAKEN_BYTES,
    N_TURNED_AT, N_TURNS, N_UNASKED_BYTES, N_WALL_MS, NAMES
};
static const char *const NAME_TEXTS[NAMES] = {
    "answers_out_bytes", "busy_s", "bytes_left", "disturbed", "events", "get", "hand", "in_hand", "known",
    "longest_turn_ms", "now", "now_bytes", "requests_in_bytes", "review_at_bytes", "subscribed", "taken_bytes",
    "turned_at", "turns", "unasked_bytes", "wall_ms"
};

typedef struct {
    PyObject_HEAD
    PyObject *parts[PARTS];
    PyObject *names[NAMES];
    PyObject *nothing; /* an empty tuple */
    Zmq zmq;
    void *socket;
    int router_fd;
    int epoll_fd;
    int64_t ask_after_bytes;
    size_t large_bytes;
    double slow_turn_s;
    double stall_s;
    double started; /* as Instant has it */
    int64_t wall_ms_at_start;
} Turns;

/* What one run of turns goes by, and what it has counted. */
typedef struct {
    double stood_still_s; /* as LocalClock has it */
    double ahead_s_max;
    double now;             /* of the core */
    double longest_turn_ms; /* so far */
    int64_t turns;
    double busy_s;
    int64_t in_bytes;
    int64_t out_bytes;
} Run;

/* What a turn came to. */
typedef enum {
    WRONG = -1, /* an exception is set */
    SERVED = 0, /* the turn may end */
    LEFT = 1    /* Python must go on: with what is in hand, or by receiving */
} Step;

/* -- parts ----------------------------------------------------------------------------------------------------------- */

/* Read a clock as Python does, to the last bit: times are compared with those read there. */
static double
clock_s(clockid_t which)
{
    struct timespec at;
    clock_gettime(which, &at);
    return (double)((int64_t)at.tv_sec * 1000000000 + at.tv_nsec) / 1e9;
}

static PyObject *
part_attribute(Turns *self, enum part part, enum name name)
{
    return PyObject_GetAttr(self->parts[part], self->names[name]);
}

static int
set_number(Turns *self, PyObject *of, enum name name, int64_t value)
{
    PyObject *number = PyLong_FromLongLong(value);
    int failed = number == NULL ? -1 : PyObject_SetAttr(of, self->names[name], number);
    Py_XDECREF(number);
    return failed;
}

static int
set_seconds(Turns *self, PyObject *of, enum name name, double value)
{
    PyObject *number = PyFloat_FromDouble(value);
    int failed = number == NULL ? -1 : PyObject_SetAttr(of, self->names[name], number);
    Py_XDECREF(number);
    return failed;
}

/* Read an attribute that is a whole number. -1 may be an error: see PyErr_Occurred. */
static int64_t
number_of(Turns *self, PyObject *of, enum name name)
{
    PyObject *value = PyObject_GetAttr(of, self->names[name]);
    int64_t number = value == NULL ? -1 : PyLong_AsLongLong(value);
    Py_XDECREF(value);
    return number;
}

/* The same of one that is a number of seconds, or of milliseconds. */
static double
seconds_of(Turns *self, PyObject *of, enum name name)
{
    PyObject *value = PyObject_GetAttr(of, self->names[name]);
    double number = value == NULL ? -1 : PyFloat_AsDouble(value);
    Py_XDECREF(value);
    return number;
}

static int
add_number(Turns *self, PyObject *of, enum name name, int64_t more)
{
    int64_t before = more == 0 ? 0 : number_of(self, of, name);
    return more == 0 ? 0 : PyErr_Occurred() ? -1 : set_number(self, of, name, before + more);
}

/* Call something for what it does. */
static int
call(PyObject *what, PyObject *first, PyObject *second)
{
    PyObject *done = PyObject_CallFunctionObjArgs(what, first, second, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* -- the socket ------------------------------------------------------------------------------------------------------ */

/* Read the socket's state, as Inlet.has_input does. What cannot be read is for the inlet to find out. */
static bool
has_input(Turns *self)
{
    int events = 0;
    size_t size = sizeof events;
    return self->zmq.getsockopt(self->socket, ZMQ_EVENTS, &events, &size) < 0 || (events & ZMQ_POLLIN);
}

static PyObject *
bytes_of(Turns *self, Message *message)
{
    return PyBytes_FromStringAndSize(self->zmq.msg_data(message), (Py_ssize_t)self->zmq.msg_size(message));
}

/* Receive a part: 0, or the number of the error. The message must be closed only if there is none. */
static int
receive(Turns *self, Message *message)
{
    self->zmq.msg_init(message);
    if (self->zmq.msg_recv(message, self->socket, ZMQ_DONTWAIT) >= 0) {
        return 0;
    }
    int error = self->zmq.error();
    self->zmq.msg_close(message);
    return error;
}

/* Note what was handed to libzmq for a connection, as Connections.hand does. */
static int
hand(Turns *self, PyObject *origin, PyObject *connection, int64_t size)
{
    PyObject *connections = self->parts[CONNECTIONS];
    int64_t unasked = number_of(self, connection, N_UNASKED_BYTES) + size;
    int64_t left = number_of(self, connections, N_BYTES_LEFT) - size;
    int64_t review_at = number_of(self, connections, N_REVIEW_AT_BYTES);
    if (PyErr_Occurred()) {
        return -1;
    }
    if (unasked > self->ask_after_bytes || left < review_at) { /* somebody must be looked at */
        PyObject *number = PyLong_FromLongLong(size);
        PyObject *done = NULL;
        if (number != NULL) {
            done = PyObject_CallMethodObjArgs(connections, self->names[N_HAND], origin, number, NULL);
        }
        Py_XDECREF(number);
        Py_XDECREF(done);
        return done == NULL ? -1 : 0;
    }
    int failed = set_number(self, connection, N_UNASKED_BYTES, unasked) || set_number(self, connections, N_BYTES_LEFT, left);
    return failed ? -1 : 0;
}

/* Send a reply, as Server._reply does. */
static int
reply_to(Turns *self, Run *run, PyObject *origin, PyObject *connection, PyObject *reply)
{
    size_t size = (size_t)PyBytes_GET_SIZE(reply);
    if (self->zmq.send(self->socket, PyBytes_AS_STRING(origin), (size_t)PyBytes_GET_SIZE(origin),
                       ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0 ||
        self->zmq.send(self->socket, PyBytes_AS_STRING(reply), size, ZMQ_DONTWAIT) < 0) {
        PyObject *error = PyLong_FromLong(self->zmq.error());
        int failed = error == NULL ? -1 : call(self->parts[UNDELIVERED], origin, error);
        Py_XDECREF(error);
        return failed;
    }
    run->out_bytes += (int64_t)size;
    return hand(self, origin, connection, (int64_t)size);
}

/* -- a turn ---------------------------------------------------------------------------------------------------------- */

/* Find a connection; NULL without an exception if it is not known. */
static PyObject *
connection_of(Turns *self, PyObject *origin)
{
    PyObject *known = part_attribute(self, CONNECTIONS, N_KNOWN), *connection = NULL;
    if (known != NULL && PyDict_CheckExact(known)) {
        connection = Py_XNewRef(PyDict_GetItemWithError(known, origin));
    }
    else if (known != NULL) {
        connection = PyObject_CallMethodOneArg(known, self->names[N_GET], origin);
        if (connection == Py_None) {
            Py_CLEAR(connection);
        }
    }
    Py_XDECREF(known);
    return connection;
}

/* Leave to the inlet what is in hand (stolen). */
static Step
leave(Turns *self, PyObject *in_hand)
{
    int failed = in_hand == NULL ? -1 : PyObject_SetAttr(self->parts[INLET], self->names[N_IN_HAND], in_hand);
    Py_XDECREF(in_hand);
    return failed ? WRONG : LEFT;
}

/* Leave to the inlet a request that was received. */
static Step
leave_request(Turns *self, PyObject *origin, PyObject *connection, Message *message)
{
    PyObject *frame = bytes_of(self, message);
    PyObject *in_hand = frame == NULL ? NULL : PyTuple_Pack(3, origin, connection, frame);
    Py_XDECREF(frame);
    return leave(self, in_hand);
}

/* Leave to Python the rest of a turn whose request was taken. */
static Step
leave_the_rest(Turns *self)
{
    return leave(self, Py_NewRef(self->nothing));
}

/* Tell whether an attribute of the outbox is true, or not empty; -1: an error. */
static int
has_in_outbox(Turns *self, enum name name)
{
    PyObject *value = part_attribute(self, OUTBOX, name);
    int truth = value == NULL ? -1 : PyObject_IsTrue(value);
    Py_XDECREF(value);
    return truth;
}

/* See to what has to be announced: where nobody subscribes, it is only numbered. */
static Step
announce(Turns *self)
{
    int has = has_in_outbox(self, N_EVENTS);
    int subscribed = has > 0 ? has_in_outbox(self, N_SUBSCRIBED) : has;
    if (subscribed) {
        return subscribed < 0 ? WRONG : leave_the_rest(self);
    }
    return has && call(self->parts[NUMBER_EVENTS], NULL, NULL) ? WRONG : SERVED;
}

/* Have the core count an error that concerns one request only, as NodeCore.receive_request does. */
static int
count_failure(Turns *self, PyObject *origin, uint64_t kind)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (trace != NULL) {
        PyException_SetTraceback(error, trace);
    }
    PyObject *done = PyObject_CallMethod(self->parts[CORE], "fail", "sOO", kind == GET ? "Get" : "Set", origin, error);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Count what was taken, as RequestInlet and NodeCore.receive_request do. */
static int
count_taken(Turns *self, Run *run, PyObject *connection, size_t size)
{
    run->in_bytes += (int64_t)size;
    return add_number(self, connection, N_TAKEN_BYTES, (int64_t)(size < 256 ? size + 2 : size + 9));
}

/* Move the time of the core on, as Instant.move does. */
static int
move(Turns *self, Run *run, double began)
{
    PyObject *instant = self->parts[INSTANT];
    int64_t wall_ms = self->wall_ms_at_start + (int64_t)((began - self->started) * 1000);
    uint8_t big_endian[EXPIRY_BYTES];
    for (int i = 0; i < EXPIRY_BYTES; i++) {
        big_endian[i] = (uint8_t)(wall_ms >> 8 * (EXPIRY_BYTES - 1 - i));
    }
    PyObject *now_bytes = PyBytes_FromStringAndSize((char *)big_endian, EXPIRY_BYTES);
    int failed = now_bytes == NULL || PyObject_SetAttr(instant, self->names[N_NOW_BYTES], now_bytes) ||
                 set_number(self, instant, N_WALL_MS, wall_ms) || set_seconds(self, instant, N_NOW, began);
    Py_XDECREF(now_bytes);
    run->now = began;
    return failed ? -1 : 0;
}

/* Serve a request that was received from a connection. */
static Step
serve_message(Turns *self, Run *run, double began, PyObject *origin, PyObject *connection, Message *message)
{
    size_t size = self->zmq.msg_size(message);
    if (size >= self->large_bytes && call(self->parts[EXPECT_LARGE], NULL, NULL)) {
        return WRONG;
    }
    if (self->zmq.msg_more(message) || began - run->now > self->stall_s) { /* the core must take note of a stall */
        return leave_request(self, origin, connection, message);
    }
    if (move(self, run, began)) {
        return WRONG;
    }
    PyObject *reply;
    uint64_t kind;
    Outcome outcome = serve_at_once(self->parts[USUAL], origin, self->zmq.msg_data(message), size, &reply, &kind);
    if (outcome == UNUSUAL) {
        return leave_request(self, origin, connection, message);
    }
    if (outcome == FAILED && count_failure(self, origin, kind)) {
        return WRONG;
    }
    if (count_taken(self, run, connection, size)) {
        Py_XDECREF(reply);
        return WRONG;
    }
    if (outcome != DONE && PyObject_SetAttr(self->parts[CORE], self->names[N_DISTURBED], Py_True)) {
        return WRONG;
    }
    if (reply == NULL) { /* Python went on, it failed, or the reply is large */
        return leave_the_rest(self);
    }
    int failed = reply_to(self, run, origin, connection, reply);
    Py_DECREF(reply);
    return failed ? WRONG : announce(self); /* a small reply was not counted in reply_bytes */
}

/* Receive one request, and serve it if it is usual. */
static Step
take_request(Turns *self, Run *run, double began)
{
    Message first, second;
    int error = receive(self, &first);
    if (error) {
        return error == EAGAIN ? SERVED : LEFT; /* woken for nothing */
    }
    PyObject *origin = bytes_of(self, &first);
    self->zmq.msg_close(&first);
    PyObject *connection = origin == NULL ? NULL : connection_of(self, origin);
    Step step = WRONG;
    if (connection == NULL) {
        step = PyErr_Occurred() ? WRONG : leave(self, PyTuple_Pack(1, origin));
    }
    else if (receive(self, &second)) {
        step = LEFT; /* libzmq hands over whole messages: the socket is closed, say */
    }
    else {
        step = serve_message(self, run, began, origin, connection, &second);
        self->zmq.msg_close(&second);
    }
    Py_XDECREF(connection);
    Py_XDECREF(origin);
    return step;
}

/* End a turn as Server._end_turn does. */
static int
end_turn(Turns *self, Run *run, double began)
{
    double moment = clock_s(CLOCK_MONOTONIC), took_s = moment + run->stood_still_s - began;
    run->turns++;
    run->busy_s += took_s;
    if (set_seconds(self, self->parts[PULSE], N_TURNED_AT, moment)) {
        return -1;
    }
    if (took_s <= self->slow_turn_s && took_s * 1000 <= run->longest_turn_ms) {
        return 0;
    }
    PyObject *seconds = PyFloat_FromDouble(took_s);
    int failed = seconds == NULL || call(self->parts[SLOW], seconds, NULL);
    Py_XDECREF(seconds);
    run->longest_turn_ms = seconds_of(self, self->parts[COUNTERS], N_LONGEST_TURN_MS);
    return failed || PyErr_Occurred() ? -1 : 0;
}

static Step
turn(Turns *self, Run *run)
{
    double moment = clock_s(CLOCK_MONOTONIC), began = moment + run->stood_still_s;
    if (clock_s(CLOCK_REALTIME) - began > run->ahead_s_max) { /* the machine was suspended */
        return LEFT;
    }
    Step step = take_request(self, run, began);
    if (step == SERVED) {
        return end_turn(self, run, began) || PyErr_CheckSignals() ? WRONG : SERVED;
    }
    run->busy_s += clock_s(CLOCK_MONOTONIC) - moment; /* and Python adds what it takes from here */
    return step;
}

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

/* Make the list of the descriptors that woke, each with its events. */
static PyObject *
woken_of(Turns *self, const struct epoll_event *events, int count, bool also_router)
{
    PyObject *woken = PyList_New(0);
    for (int i = -also_router; woken != NULL && i < count; i++) {
        int fd = i < 0 ? self->router_fd : events[i].data.fd;
        uint32_t what = i < 0 ? EPOLLIN : events[i].events;
        PyObject *pair = also_router && i >= 0 && fd == self->router_fd ? NULL : Py_BuildValue("(iI)", fd, what);
        if (pair != NULL && PyList_Append(woken, pair)) {
            Py_CLEAR(woken);
        }
        Py_XDECREF(pair);
        if (PyErr_Occurred()) {
            Py_CLEAR(woken);
        }
    }
    return woken;
}

static PyObject *
run_turns(Turns *self, Run *run, double deadline)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    Step step = SERVED;
    while (step == SERVED) {
        bool more = has_input(self);
        double left_s = more ? 0 : deadline - clock_s(CLOCK_MONOTONIC);
        int count = sleep_for(self, left_s, events);
        if (count < 0) {
            return NULL;
        }
        if (left_s <= 0 || count != 1 || events[0].data.fd != self->router_fd) {
            return woken_of(self, events, count, more);
        }
        step = turn(self, run);
    }
    return step == WRONG ? NULL : woken_of(self, NULL, 0, true);
}

/* Add what was counted to the node's counters. */
static int
count_run(Turns *self, const Run *run)
{
    PyObject *counters = self->parts[COUNTERS], *loop = self->parts[LOOP];
    if (add_number(self, counters, N_REQUESTS_IN_BYTES, run->in_bytes) ||
        add_number(self, counters, N_ANSWERS_OUT_BYTES, run->out_bytes) || add_number(self, loop, N_TURNS, run->turns)) {
        return -1;
    }
    double busy_s = run->busy_s > 0 ? seconds_of(self, loop, N_BUSY_S) : 0;
    return PyErr_Occurred() ? -1 : run->busy_s > 0 ? set_seconds(self, loop, N_BUSY_S, busy_s + run->busy_s) : 0;
}

static PyObject *
turns_serve(Turns *self, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 3 || self->parts[0] == NULL) {
        PyErr_SetString(PyExc_TypeError, "serve takes a deadline, and two fields of the clock");
        return NULL;
    }
    Run run = {0};
    double deadline = PyFloat_AsDouble(arguments[0]);
    run.stood_still_s = PyFloat_AsDouble(arguments[1]);
    run.ahead_s_max = PyFloat_AsDouble(arguments[2]);
    run.now = seconds_of(self, self->parts[INSTANT], N_NOW);
    run.longest_turn_ms = seconds_of(self, self->parts[COUNTERS], N_LONGEST_TURN_MS);
    if (PyErr_Occurred()) {
        return NULL;
    }
    PyObject *woken = run_turns(self, &run, deadline);
    if (woken != NULL && count_run(self, &run)) {
        Py_CLEAR(woken);
    }
    return woken;
}

/* -- the type -------------------------------------------------------------------------------------------------------- */

static int
turns_traverse(Turns *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (int i = 0; i < PARTS; i++) {
        Py_VISIT(self->parts[i]);
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
        Py_CLEAR(self->names[i]);
    }
    Py_CLEAR(self->nothing);
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
            arguments, named, "$OOOOOOOOOOOOOOKiiLLdddL:UsualTurns", ARGUMENTS, &p[CONNECTIONS], &p[CORE], &p[COUNTERS],
            &p[EXPECT_LARGE], &p[INLET], &p[INSTANT], &p[LOOP], &p[NUMBER_EVENTS], &p[OUTBOX], &p[PULSE], &p[SLOW],
            &p[UNDELIVERED], &p[USUAL], &functions, &socket, &self->router_fd, &self->epoll_fd, &ask_after_bytes,
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
    self->socket = (void *)(uintptr_t)socket;
    self->ask_after_bytes = ask_after_bytes;
    self->large_bytes = (size_t)large_bytes;
    self->wall_ms_at_start = wall_ms_at_start;
    self->nothing = PyTuple_New(0);
    int failed = self->nothing == NULL || take_functions(self, functions) || check_usual(type, p[USUAL]);
    for (int i = 0; i < NAMES && !failed; i++) {
        self->names[i] = PyUnicode_InternFromString(NAME_TEXTS[i]);
        failed = self->names[i] == NULL;
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
