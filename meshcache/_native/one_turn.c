/* One turn of a node's loop that serves usual requests: from what is received to what is sent. See turns.c.
 *
 * A turn takes one message from each line that has one, sends what follows from them, and notes how long it took, as
 * intake.py, links.py, connections.py and Server._perform and _end_turn do.
 *
 * libzmq is the one that pyzmq has loaded. Its functions are given as addresses, because there is nothing to link with;
 * their types here are those of zmq.h, which have not changed since libzmq 4.1. No call waits (ZMQ_DONTWAIT), so the GIL
 * is held. */

#include "one_turn.h"

#ifdef __linux__

#include <errno.h>

#include "serve.h"

#define ZMQ_EVENTS 15
#define ZMQ_POLLIN 1
#define ZMQ_DONTWAIT 1
#define ZMQ_SNDMORE 2

#define EXPIRY_BYTES 6
#define EVENTS_PER_FRAME 4096 /* as frames.py has it */

/* -- the socket ------------------------------------------------------------------------------------------------------ */

bool
has_input(Turns *self, const Line *line)
{
    int events = 0;
    size_t size = sizeof events;
    return self->zmq.getsockopt(line->socket, ZMQ_EVENTS, &events, &size) < 0 || (events & ZMQ_POLLIN);
}

PyObject *
bytes_of(Turns *self, Message *message)
{
    return PyBytes_FromStringAndSize(self->zmq.msg_data(message), (Py_ssize_t)self->zmq.msg_size(message));
}

int
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
            done = PyObject_CallMethodObjArgs(connections, self->names[N_HAND].text, origin, number, NULL);
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

PyObject *
connection_of(Turns *self, PyObject *origin)
{
    PyObject *known = part_attribute(self, CONNECTIONS, N_KNOWN), *connection = NULL;
    if (known != NULL && PyDict_CheckExact(known)) {
        connection = Py_XNewRef(PyDict_GetItemWithError(known, origin));
    }
    else if (known != NULL) {
        connection = PyObject_CallMethodOneArg(known, self->names[N_GET].text, origin);
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
    int failed = in_hand == NULL ? -1 : set_attribute(&self->names[N_IN_HAND], self->parts[INLET], in_hand);
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
    int failed = now_bytes == NULL || set_attribute(&self->names[N_NOW_BYTES], instant, now_bytes) ||
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
    return set_attribute(&self->names[N_DISTURBED], self->parts[CORE], Py_True) ? WRONG : LEFT; /* Python went on */
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
        done = PyObject_CallMethodObjArgs(line->inlet, self->names[N_TAKE_RECEIVED].text, frame, more, moment, NULL);
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
                   set_attribute(&self->names[N_DISTURBED], self->parts[CORE], Py_True)
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

void
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

/* Return what the outbox has to send, held: a dict. NULL with an exception if it is none. */
static PyObject *
to_send(Turns *self, enum name name)
{
    PyObject *found = part_attribute(self, OUTBOX, name);
    if (found != NULL && !PyDict_CheckExact(found)) {
        Py_CLEAR(found);
        PyErr_SetString(PyExc_TypeError, "sends and replies of the outbox must be dicts");
    }
    return found;
}

/* Send the replies of the turn, or leave them to Python if it has some to send as well. */
static Step
send_replies(Turns *self, Run *run)
{
    PyObject *replies = to_send(self, N_REPLIES);
    if (replies == NULL) {
        return WRONG;
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
        done = PyObject_CallMethodObjArgs(self->parts[CORE], self->names[N_UNDELIVERABLE].text, address, moment, NULL);
    }
    int failed = done == NULL || set_attribute(&self->names[N_DISTURBED], self->parts[CORE], Py_True);
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
    PyObject *sends = to_send(self, N_SENDS);
    if (sends == NULL) {
        return WRONG;
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

/* Number what nobody subscribes to, as Frames.stream does, and forget it. */
static int
number_events(Turns *self)
{
    PyObject *events = part_attribute(self, OUTBOX, N_EVENTS);
    bool is_one_frame = events != NULL && PyList_CheckExact(events) && PyList_GET_SIZE(events) <= EVENTS_PER_FRAME;
    Py_XDECREF(events);
    if (!is_one_frame) {
        return events == NULL ? -1 : call(self->parts[NUMBER_EVENTS], NULL, NULL);
    }
    PyObject *none = PyList_New(0), *frames = part_attribute(self, CORE, N_FRAMES);
    int failed = none == NULL || frames == NULL || set_attribute(&self->names[N_EVENTS], self->parts[OUTBOX], none) ||
                 add_number(self, self->parts[COUNTERS], N_PUBLISHED, 1) || add_number(self, frames, N_SEQUENCE, 1);
    Py_XDECREF(none);
    Py_XDECREF(frames);
    return failed ? -1 : 0;
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
    return has_events && number_events(self) ? WRONG : SERVED;
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

/* -- how long operations took: latencies.py -------------------------------------------------------------------------- */

/* Count a time in a histogram, as Histogram.add does. */
static int
add_to_histogram(Turns *self, PyObject *histogram, double value)
{
    PyObject *bounds = get_attribute(&self->names[N_BOUNDS], histogram);
    PyObject *counts = bounds == NULL ? NULL : get_attribute(&self->names[N_COUNTS], histogram);
    Py_ssize_t classes = bounds != NULL && PyTuple_CheckExact(bounds) ? PyTuple_GET_SIZE(bounds) : -1, place = 0;
    int failed = -1;
    if (counts != NULL && (!PyList_CheckExact(counts) || PyList_GET_SIZE(counts) != classes + 1)) {
        PyErr_SetString(PyExc_TypeError, "a histogram must have a tuple of bounds, and a list of one count more");
    }
    else if (counts != NULL) {
        while (place < classes && PyFloat_AsDouble(PyTuple_GET_ITEM(bounds, place)) < value) {
            place++;
        }
        PyObject *more = PyLong_FromLongLong(PyLong_AsLongLong(PyList_GET_ITEM(counts, place)) + 1);
        double total = seconds_of(self, histogram, N_TOTAL);
        failed = more == NULL || PyList_SetItem(counts, place, more) || PyErr_Occurred() ||
                 set_seconds(self, histogram, N_TOTAL, total + value);
    }
    Py_XDECREF(bounds);
    Py_XDECREF(counts);
    return failed ? -1 : 0;
}

/* Count an operation: of (class, when it began, when the turn began that ended it). */
static int
end_operation(Turns *self, PyObject *ended, PyObject *kinds, PyObject *taken, PyObject *waited_s, double now)
{
    PyObject *name, *kind, *histogram, *waited;
    double began, turn_at;
    if (!PyArg_ParseTuple(ended, "Odd", &name, &began, &turn_at)) {
        return -1;
    }
    kind = PyDict_GetItemWithError(kinds, name);
    if (kind == NULL || kind == Py_None) {
        return PyErr_Occurred() ? -1 : 0;
    }
    histogram = PyDict_GetItemWithError(taken, kind);
    waited = PyDict_GetItemWithError(waited_s, kind);
    if (histogram == NULL || waited == NULL) {
        PyErr_SetObject(PyExc_KeyError, kind);
        return -1;
    }
    if (add_to_histogram(self, histogram, now - began)) {
        return -1;
    }
    PyObject *sum = PyFloat_FromDouble(PyFloat_AsDouble(waited) + (turn_at - began));
    int failed = sum == NULL || PyDict_SetItem(waited_s, kind, sum);
    Py_XDECREF(sum);
    return failed ? -1 : 0;
}

/* What ended in this turn has left the node: count it, as Latencies.end_turn does. */
static int
end_operations(Turns *self, PyObject *all, double now)
{
    PyObject *latencies = self->parts[LATENCIES], *none = PyList_New(0);
    PyObject *kinds = get_attribute(&self->names[N_KINDS], latencies);
    PyObject *taken = get_attribute(&self->names[N_TAKEN], latencies);
    PyObject *waited_s = get_attribute(&self->names[N_WAITED_S], latencies);
    int failed = none == NULL || kinds == NULL || taken == NULL || waited_s == NULL;
    if (!failed && !(PyDict_CheckExact(kinds) && PyDict_CheckExact(taken) && PyDict_CheckExact(waited_s))) {
        PyErr_SetString(PyExc_TypeError, "kinds, taken and waited_s of the latencies must be dicts");
        failed = -1;
    }
    failed = failed || set_attribute(&self->names[N_ENDED], latencies, none);
    for (Py_ssize_t i = 0; !failed && i < PyList_GET_SIZE(all); i++) {
        failed = end_operation(self, PyList_GET_ITEM(all, i), kinds, taken, waited_s, now);
    }
    Py_XDECREF(none);
    Py_XDECREF(kinds);
    Py_XDECREF(taken);
    Py_XDECREF(waited_s);
    return failed ? -1 : 0;
}

/* The same, if there is anything. */
static int
end_latencies(Turns *self, double now)
{
    PyObject *all = part_attribute(self, LATENCIES, N_ENDED);
    int failed = all == NULL;
    if (all != NULL && !PyList_CheckExact(all)) {
        PyErr_SetString(PyExc_TypeError, "ended of the latencies must be a list");
        failed = -1;
    }
    else if (all != NULL && PyList_GET_SIZE(all) > 0) {
        failed = end_operations(self, all, now);
    }
    Py_XDECREF(all);
    return failed ? -1 : 0;
}

/* -- a whole turn ---------------------------------------------------------------------------------------------------- */

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

Step
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

#endif
