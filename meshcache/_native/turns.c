/* The turns of a node's loop that serve usual requests, without a call of Python in them.
 *
 * A request that comes alone finds the node asleep, and its caches cold: then it counts how much code and how many objects
 * the turn touches, which receives it, serves it and sends the reply. ``UsualTurns.serve`` does what Server._serve_until
 * does, its specification, with what poller.py, intake.py, links.py and connections.py do for it: it sleeps until something
 * arrives; and as long as that is usual it serves that and sleeps again. It returns when there is anything else to do, or
 * the deadline is reached. What it has received by then, and found not to be usual, it leaves to the inlet.
 *
 * The sockets are *lines* here: the ROUTER, and a DEALER to each peer. A turn takes one message from each line that has
 * one, sends what follows from them, and reads the state of what it has touched. A ROUTER that has more after a client was
 * answered is left to the inlet: it takes all, and their answers leave together. Where nodes wait for each other, the turns
 * go on; but after ``BURST_MAX`` of them the inlet takes over, which knows what to do with a queue that does not empty.
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
#define BURST_MAX 32

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
    CONNECTIONS, CORE, COUNTERS, EXPECT_LARGE, INLET, INSTANT, LATENCIES, LOOP, NUMBER_EVENTS, OUTBOX, PULSE, SLOW,
    UNDELIVERED, USUAL, PARTS
};
static char *ARGUMENTS[] = {
    "connections", "core", "counters", "expect_large", "inlet", "instant", "latencies", "loop", "number_events", "outbox", "pulse",
    "slow", "undelivered", "usual", "functions", "socket", "router_fd", "epoll_fd", "ask_after_bytes", "large_bytes",
    "slow_turn_s", "stall_s", "started", "wall_ms_at_start", NULL
};

/* Names of what is looked at in them. */
#define NAME_LIST(X) \
    X(ANSWERS_IN_BYTES, "answers_in_bytes") X(ANSWERS_OUT_BYTES, "answers_out_bytes") X(BUSY_S, "busy_s") \
    X(BYTES_LEFT, "bytes_left") X(DISTURBED, "disturbed") X(ENDED, "ended") X(END_TURN, "end_turn") \
    X(EVENTS, "events") X(GET, "get") X(HAND, "hand") X(IN_HAND, "in_hand") X(KNOWN, "known") \
    X(LONGEST_TURN_MS, "longest_turn_ms") X(NOW, "now") X(NOW_BYTES, "now_bytes") X(REPLIES, "replies") \
    X(REQUESTS_IN_BYTES, "requests_in_bytes") X(REQUESTS_OUT_BYTES, "requests_out_bytes") \
    X(REVIEW_AT_BYTES, "review_at_bytes") X(SENDS, "sends") X(SUBSCRIBED, "subscribed") \
    X(TAKEN_BYTES, "taken_bytes") X(TAKE_RECEIVED, "take_received") X(TURNED_AT, "turned_at") X(TURNS, "turns") \
    X(UNASKED_BYTES, "unasked_bytes") X(UNDELIVERABLE, "undeliverable") X(WALL_MS, "wall_ms")
#define AS_NAME(name, text) N_##name,
enum name { NAME_LIST(AS_NAME) NAMES };
#define AS_TEXT(name, text) text,
static const char *const NAME_TEXTS[NAMES] = { NAME_LIST(AS_TEXT) };

/* A socket, and whether its state must be read before the next sleep, or was read and showed input. */
typedef struct {
    int fd;
    bool is_stirred;
    bool is_ready;
    void *socket;
    PyObject *address; /* of a peer; NULL: this is the ROUTER */
    PyObject *inlet;
} Line;

typedef struct {
    PyObject_HEAD
    PyObject *parts[PARTS];
    PyObject *names[NAMES];
    Zmq zmq;
    Line router;
    Line *lines;       /* the ROUTER, and those to peers */
    size_t line_count;
    PyObject *peers;   /* the tuple from which they were made */
    int epoll_fd;
    int64_t ask_after_bytes;
    size_t large_bytes;
    double slow_turn_s;
    double stall_s;
    double started; /* as Instant has it */
    int64_t wall_ms_at_start;
} Turns;

/* A reply that is to be sent when the turn ends. */
typedef struct {
    PyObject *origin;
    PyObject *connection; /* NULL, if it did not ask in this turn */
    PyObject *frame;
} Held;

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
    int64_t asked_bytes;    /* of what was sent to peers */
    int64_t answered_bytes; /* of what they answered */
    int burst;              /* turns on end after which the ROUTER had more */
    bool has_answered;      /* a client, in the last turn; or there was none before */
    Held *held;             /* one for each line at most */
    size_t held_count;
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
has_input(Turns *self, const Line *line)
{
    int events = 0;
    size_t size = sizeof events;
    return self->zmq.getsockopt(line->socket, ZMQ_EVENTS, &events, &size) < 0 || (events & ZMQ_POLLIN);
}

static PyObject *
bytes_of(Turns *self, Message *message)
{
    return PyBytes_FromStringAndSize(self->zmq.msg_data(message), (Py_ssize_t)self->zmq.msg_size(message));
}

/* Receive a part: 0, or the number of the error. The message must be closed only if there is none. */
static int
receive(Turns *self, const Line *line, Message *message)
{
    self->zmq.msg_init(message);
    if (self->zmq.msg_recv(message, line->socket, ZMQ_DONTWAIT) >= 0) {
        return 0;
    }
    int error = self->zmq.error();
    self->zmq.msg_close(message);
    return error;
}

/* Note what was handed to libzmq for a connection, as Connections.hand does; NULL: for one that is not known. */
static int
hand(Turns *self, PyObject *origin, PyObject *connection, int64_t size)
{
    PyObject *connections = self->parts[CONNECTIONS];
    int64_t unasked = connection == NULL ? 0 : number_of(self, connection, N_UNASKED_BYTES) + size;
    int64_t left = number_of(self, connections, N_BYTES_LEFT) - size;
    int64_t review_at = number_of(self, connections, N_REVIEW_AT_BYTES);
    if (PyErr_Occurred()) {
        return -1;
    }
    if (connection == NULL || unasked > self->ask_after_bytes || left < review_at) { /* somebody must be looked at */
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
reply_to(Turns *self, Run *run, const Held *held)
{
    void *socket = self->lines[0].socket;
    size_t size = (size_t)PyBytes_GET_SIZE(held->frame);
    self->lines[0].is_stirred = true;
    if (self->zmq.send(socket, PyBytes_AS_STRING(held->origin), (size_t)PyBytes_GET_SIZE(held->origin),
                       ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0 ||
        self->zmq.send(socket, PyBytes_AS_STRING(held->frame), size, ZMQ_DONTWAIT) < 0) {
        PyObject *error = PyLong_FromLong(self->zmq.error());
        int failed = error == NULL ? -1 : call(self->parts[UNDELIVERED], held->origin, error);
        Py_XDECREF(error);
        return failed;
    }
    run->out_bytes += (int64_t)size;
    return hand(self, held->origin, held->connection, (int64_t)size);
}

/* Find the line to an address; NULL without an exception: there is none. */
static Line *
line_to(Turns *self, PyObject *address)
{
    for (size_t i = 1; i < self->line_count; i++) {
        int is_it = PyObject_RichCompareBool(self->lines[i].address, address, Py_EQ);
        if (is_it) {
            return is_it < 0 ? NULL : &self->lines[i];
        }
    }
    return NULL;
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
    PyObject *done = PyObject_CallMethod(self->parts[CORE], "fail", "sOO",
                                         kind == GET     ? "Get"
                                         : kind == SET   ? "Set"
                                         : kind == WRITE ? "Write"
                                                         : "WriteReply",
                                         origin, error);
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

/* Keep a reply until the turn ends; it takes the references, of which the connection's may be NULL. */
static void
hold(Run *run, PyObject *origin, PyObject *connection, PyObject *frame)
{
    run->held[run->held_count++] = (Held){origin, connection, frame};
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
    if (reply != NULL) {
        hold(run, Py_NewRef(origin), Py_NewRef(connection), reply);
        run->has_answered = kind != WRITE;
    }
    if (count_taken(self, run, connection, size)) {
        return WRONG;
    }
    if (outcome == DONE) {
        return SERVED;
    }
    return PyObject_SetAttr(self->parts[CORE], self->names[N_DISTURBED], Py_True) ? WRONG : LEFT; /* Python went on */
}

/* Receive one request, and serve it if it is usual. */
static Step
take_request(Turns *self, Run *run, double began, Line *line)
{
    Message first, second;
    int error = receive(self, line, &first);
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
    else if (receive(self, line, &second)) {
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

/* Have the inlet of a peer go on with a message that was received. */
static Step
leave_answer(Turns *self, const Line *line, double began, Message *message)
{
    PyObject *frame = bytes_of(self, message), *moment = PyFloat_FromDouble(began), *done = NULL;
    PyObject *more = self->zmq.msg_more(message) ? Py_True : Py_False;
    if (frame != NULL && moment != NULL) {
        done = PyObject_CallMethodObjArgs(line->inlet, self->names[N_TAKE_RECEIVED], frame, more, moment, NULL);
    }
    Py_XDECREF(frame);
    Py_XDECREF(moment);
    Py_XDECREF(done);
    return done == NULL ? WRONG : LEFT;
}

/* Have the core count that an answer could not be taken, as NodeCore.receive_answer does. */
static Step
fail_answer(Turns *self, const Line *line)
{
    return count_failure(self, line->address, WRITE_REPLY) ||
                   PyObject_SetAttr(self->parts[CORE], self->names[N_DISTURBED], Py_True)
               ? WRONG
               : LEFT;
}

/* Receive one answer of a peer, and take it if it is usual. */
static Step
take_answer(Turns *self, Run *run, double began, Line *line)
{
    Message message;
    int error = receive(self, line, &message);
    if (error) {
        return error == EAGAIN ? SERVED : LEFT;
    }
    Step step = SERVED;
    size_t size = self->zmq.msg_size(&message);
    if (self->zmq.msg_more(&message) || began - run->now > self->stall_s) {
        step = leave_answer(self, line, began, &message);
    }
    else if (move(self, run, began)) {
        step = WRONG;
    }
    else {
        PyObject *reply, *origin;
        void *data = self->zmq.msg_data(&message);
        Outcome outcome = take_at_once(self->parts[USUAL], line->address, data, size, &reply, &origin);
        run->answered_bytes += outcome == UNUSUAL ? 0 : (int64_t)size;
        if (outcome == UNUSUAL) {
            step = leave_answer(self, line, began, &message);
        }
        else if (outcome == FAILED) {
            step = fail_answer(self, line);
        }
        if (reply != NULL) {
            hold(run, Py_XNewRef(origin), connection_of(self, origin), reply);
            step = PyErr_Occurred() ? WRONG : step;
        }
        Py_XDECREF(origin);
    }
    self->zmq.msg_close(&message);
    return step;
}

/* -- the end of a turn ----------------------------------------------------------------------------------------------- */

static void
release(Run *run)
{
    for (size_t i = 0; i < run->held_count; i++) {
        Py_DECREF(run->held[i].origin);
        Py_XDECREF(run->held[i].connection);
        Py_DECREF(run->held[i].frame);
    }
    run->held_count = 0;
}

/* Tell whether one connection gets several replies: they go in one frame, which Python makes. */
static bool
are_many_to_one(const Run *run)
{
    for (size_t i = 1; i < run->held_count; i++) {
        for (size_t j = 0; j < i; j++) {
            if (PyObject_RichCompareBool(run->held[i].origin, run->held[j].origin, Py_EQ)) {
                return true; /* or that could not be told */
            }
        }
    }
    return false;
}

/* Say that what is to be sent is not in a dict, unless it could not even be read. */
static Step
wrong_type(void)
{
    if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_TypeError, "sends and replies of the outbox must be dicts");
    }
    return WRONG;
}

/* Send the replies of the turn, or leave them to Python if it has some to send as well. */
static Step
send_replies(Turns *self, Run *run)
{
    PyObject *replies = part_attribute(self, OUTBOX, N_REPLIES);
    if (replies == NULL || !PyDict_CheckExact(replies)) {
        Py_XDECREF(replies);
        return wrong_type();
    }
    Step step = PyDict_GET_SIZE(replies) > 0 || are_many_to_one(run) ? LEFT : SERVED;
    for (size_t i = 0; i < run->held_count && step != WRONG; i++) {
        const Held *held = &run->held[i];
        if (step == LEFT ? append_to(replies, held->origin, held->frame) : reply_to(self, run, &run->held[i])) {
            step = WRONG;
        }
    }
    Py_DECREF(replies);
    return step;
}

/* Tell whether all that is to be sent to peers is one frame to each of some lines. */
static bool
are_frames(Turns *self, PyObject *sends)
{
    PyObject *address, *messages;
    for (Py_ssize_t at = 0; PyDict_Next(sends, &at, &address, &messages);) {
        if (!PyList_CheckExact(messages) || PyList_GET_SIZE(messages) != 1 ||
            !PyBytes_CheckExact(PyList_GET_ITEM(messages, 0)) || line_to(self, address) == NULL) {
            return false;
        }
    }
    return true;
}

/* Have the core go on with a frame that could not be sent. */
static Step
fail_to_send(Turns *self, Run *run, PyObject *address)
{
    PyObject *moment = PyFloat_FromDouble(run->now), *done = NULL;
    if (moment != NULL) {
        done = PyObject_CallMethodObjArgs(self->parts[CORE], self->names[N_UNDELIVERABLE], address, moment, NULL);
    }
    int failed = done == NULL || PyObject_SetAttr(self->parts[CORE], self->names[N_DISTURBED], Py_True);
    Py_XDECREF(moment);
    Py_XDECREF(done);
    return failed ? WRONG : LEFT;
}

/* Send a frame to a peer, as Links.send does. */
static Step
send_to(Turns *self, Run *run, PyObject *address, PyObject *frame)
{
    Line *line = line_to(self, address);
    if (line == NULL) {
        return WRONG; /* with an exception: there was one before */
    }
    size_t size = (size_t)PyBytes_GET_SIZE(frame);
    line->is_stirred = true;
    run->asked_bytes += (int64_t)size;
    int sent = self->zmq.send(line->socket, PyBytes_AS_STRING(frame), size, ZMQ_DONTWAIT);
    return sent < 0 ? fail_to_send(self, run, address) : SERVED;
}

/* Send all frames of a list of addresses and lists of one frame. */
static Step
send_all(Turns *self, Run *run, PyObject *all)
{
    Step step = SERVED;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(all) && step != WRONG; i++) {
        PyObject *item = PyList_GET_ITEM(all, i), *frame = PyList_GET_ITEM(PyTuple_GET_ITEM(item, 1), 0);
        Step sent = send_to(self, run, PyTuple_GET_ITEM(item, 0), frame);
        step = sent == SERVED ? step : sent;
    }
    return step;
}

/* Send what is to be sent to peers. */
static Step
send_to_peers(Turns *self, Run *run)
{
    PyObject *sends = part_attribute(self, OUTBOX, N_SENDS);
    if (sends == NULL || !PyDict_CheckExact(sends)) {
        Py_XDECREF(sends);
        return wrong_type();
    }
    Step step = SERVED;
    if (PyDict_GET_SIZE(sends) > 0 && !are_frames(self, sends)) {
        step = LEFT;
    }
    else if (PyDict_GET_SIZE(sends) > 0) {
        PyObject *all = PyDict_Items(sends);
        PyDict_Clear(sends);
        step = all == NULL ? WRONG : send_all(self, run, all);
        Py_XDECREF(all);
    }
    Py_DECREF(sends);
    return PyErr_Occurred() ? WRONG : step;
}

/* Tell whether an attribute of a part is true, or not empty; -1: an error. */
static int
has(Turns *self, enum part part, enum name name)
{
    PyObject *value = part_attribute(self, part, name);
    int truth = value == NULL ? -1 : PyObject_IsTrue(value);
    Py_XDECREF(value);
    return truth;
}

/* See to what has to be announced: where nobody subscribes, it is only numbered. */
static Step
announce(Turns *self)
{
    int has_events = has(self, OUTBOX, N_EVENTS);
    int subscribed = has_events > 0 ? has(self, OUTBOX, N_SUBSCRIBED) : has_events;
    if (subscribed) {
        return subscribed < 0 ? WRONG : LEFT;
    }
    return has_events && call(self->parts[NUMBER_EVENTS], NULL, NULL) ? WRONG : SERVED;
}

/* Do what is to be done outside of the core, as Server._perform does. */
static Step
perform(Turns *self, Run *run)
{
    Step step = send_to_peers(self, run);
    Step replied = step == WRONG ? WRONG : send_replies(self, run);
    Step announced = replied == WRONG ? WRONG : announce(self);
    if (announced == WRONG) {
        return WRONG;
    }
    return step == LEFT || replied == LEFT ? LEFT : announced;
}

/* What ended in this turn has left the node, as Server._end_turn says it. */
static int
end_latencies(Turns *self, double ended)
{
    int has_ended = has(self, LATENCIES, N_ENDED);
    PyObject *at = has_ended > 0 ? PyFloat_FromDouble(ended) : NULL, *done = NULL;
    if (at != NULL) {
        done = PyObject_CallMethodOneArg(self->parts[LATENCIES], self->names[N_END_TURN], at);
    }
    Py_XDECREF(at);
    Py_XDECREF(done);
    return has_ended == 0 || done != NULL ? 0 : -1;
}

/* End a turn as Server._end_turn does. */
static int
end_turn(Turns *self, Run *run, double began)
{
    double moment = clock_s(CLOCK_MONOTONIC), took_s = moment + run->stood_still_s - began;
    run->turns++;
    run->busy_s += took_s;
    if (set_seconds(self, self->parts[PULSE], N_TURNED_AT, moment) || end_latencies(self, moment + run->stood_still_s)) {
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

/* Take one message from each line that has any. */
static Step
take_messages(Turns *self, Run *run, double began)
{
    Step step = SERVED;
    for (size_t i = 0; i < self->line_count && step == SERVED; i++) {
        Line *line = &self->lines[i];
        if (line->is_ready) {
            line->is_ready = false;
            line->is_stirred = true;
            step = i == 0 ? take_request(self, run, began, line) : take_answer(self, run, began, line);
        }
    }
    return step;
}

static Step
turn(Turns *self, Run *run)
{
    double moment = clock_s(CLOCK_MONOTONIC), began = moment + run->stood_still_s;
    if (clock_s(CLOCK_REALTIME) - began > run->ahead_s_max) { /* the machine was suspended */
        return LEFT;
    }
    Step step = take_messages(self, run, began);
    Step performed = step == WRONG ? WRONG : perform(self, run);
    release(run);
    if (performed == WRONG) {
        return WRONG;
    }
    if (step == SERVED && performed == SERVED) {
        return end_turn(self, run, began) || PyErr_CheckSignals() ? WRONG : SERVED;
    }
    run->busy_s += clock_s(CLOCK_MONOTONIC) - moment; /* and Python adds what it takes from here */
    return LEFT;
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
    PyObject *in_hand = PyObject_GetAttr(self->parts[INLET], self->names[N_IN_HAND]);
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
