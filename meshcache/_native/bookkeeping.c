/* What a usual request changes of the node besides the store: its clock, what is under way, whom others may still ask, and
 * what is announced. Each function does what the method does that it names, which is its specification, as long as that is
 * plain; otherwise it calls the method, before anything has changed.
 *
 * The methods are short, but each is a piece of Python. A node that wakes up for one request finds none of that in the
 * caches of its processor: there a call takes microseconds. */

#include "usual.h"

#define SUSPECT 1                /* as State has it */
#define ANSWER_S 1.0             /* as breakers.py has it */
#define WINDOW_S 10              /* as protocol/breaker.py has it */
#define LATENCIES_ENDED_MAX 4096 /* as latencies.py has it */
#define TTL_DEFAULT (-1)
#define TTL_NEVER 0

/* Call a method for what it does; no argument may be NULL. */
static int
call_method(Usual *self, PyObject *of, enum name name, PyObject *first, PyObject *second)
{
    PyObject *done = PyObject_CallMethodObjArgs(of, self->names[name].text, first, second, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Tell whether an attribute is this object; -1: an error. */
static int
is_same(Usual *self, PyObject *of, enum name name, PyObject *wanted)
{
    PyObject *found = attribute(self, of, name);
    Py_XDECREF(found);
    return found == NULL ? -1 : found == wanted;
}

/* Find what a dict that is an attribute has by a key: held. NULL without an exception: nothing. */
static PyObject *
found_in(Usual *self, PyObject *of, enum name name, PyObject *key)
{
    PyObject *dict = attribute(self, of, name), *found = NULL;
    if (dict != NULL && PyDict_CheckExact(dict)) {
        found = Py_XNewRef(PyDict_GetItemWithError(dict, key));
    }
    else if (dict != NULL) {
        PyErr_SetString(PyExc_TypeError, "a table of the node must be a dict");
    }
    Py_XDECREF(dict);
    return found;
}

/* Put something into a dict that is an attribute, or take it out: NULL. */
static int
put_into(Usual *self, PyObject *of, enum name name, PyObject *key, PyObject *value)
{
    PyObject *dict = attribute(self, of, name);
    int failed = dict == NULL ? -1 : value == NULL ? PyObject_DelItem(dict, key) : PyObject_SetItem(dict, key, value);
    Py_XDECREF(dict);
    return failed;
}

/* Append to a list that is an attribute; return how long it is then, -1: an error. */
static Py_ssize_t
append_in(Usual *self, PyObject *of, enum name name, PyObject *item)
{
    PyObject *list = attribute(self, of, name);
    Py_ssize_t size = -1;
    if (list != NULL && PyList_CheckExact(list)) {
        size = PyList_Append(list, item) ? -1 : PyList_GET_SIZE(list);
    }
    else if (list != NULL) {
        PyErr_SetString(PyExc_TypeError, "a list of the node must be a list");
    }
    Py_XDECREF(list);
    return size;
}

/* -- NodeCore.ready -------------------------------------------------------------------------------------------------- */

/* Read the state of the node as a member, by its own account; -1 with an exception. */
static int64_t
own_state(Usual *self, PyObject *membership)
{
    PyObject *own = found_in(self, membership, N_MEMBERS, self->own_id);
    PyObject *fact = own == NULL ? NULL : attribute(self, own, N_FACT);
    int64_t state = fact == NULL ? -1 : number_of(self, fact, N_STATE);
    if (own == NULL && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_KeyError, "the node is not in its table of members");
    }
    Py_XDECREF(own);
    Py_XDECREF(fact);
    return state;
}

/* Ask for a truth that is an attribute. */
static Outcome
truth_of(Usual *self, PyObject *of, enum name name)
{
    int empty = is_empty(self, of, name);
    return empty < 0 ? FAILED : !empty;
}

/* Ask the parts of which ``ready`` tells. Where a majority is asked for, that is for Python to count. */
Outcome
is_ready(Usual *self)
{
    PyObject *node = self->parts[NODE], *handshake = attribute(self, node, N_HANDSHAKE);
    Outcome outcome = handshake == NULL ? FAILED : truth_of(self, handshake, N_JOINED);
    Py_XDECREF(handshake);
    if (outcome == DONE) {
        outcome = is_same(self, node, N_DOUBT, Py_None);
    }
    PyObject *membership = outcome == DONE ? attribute(self, node, N_MEMBERSHIP) : NULL;
    if (membership == NULL) {
        return PyErr_Occurred() ? FAILED : outcome;
    }
    int64_t state = own_state(self, membership);
    outcome = state < 0 ? FAILED : state <= SUSPECT;
    if (outcome == DONE) {
        outcome = truth_of(self, membership, N_REMOVED);
        outcome = outcome == FAILED ? FAILED : !outcome;
    }
    int everywhere = outcome == DONE ? is_same(self, membership, N_MAJORITY, Py_None) : 1;
    Py_DECREF(membership);
    return everywhere < 0 ? FAILED : everywhere ? outcome : truth_of(self, node, N_READY);
}

/* -- Replica.expires_ms and stamp ------------------------------------------------------------------------------------ */

/* Take a new version from the clock, as HybridClock.tick does. */
static int
tick(Usual *self, int64_t wall_ms, uint64_t *version)
{
    PyObject *latest = part_attribute(self, CLOCK, N_LATEST);
    uint64_t own = latest == NULL ? 0 : PyLong_AsUnsignedLongLong(latest);
    Py_XDECREF(latest);
    if (PyErr_Occurred()) {
        return -1;
    }
    *version = Py_MAX(own + 1, (uint64_t)wall_ms << 16);
    if (*version <= own) {
        PyErr_SetString(PyExc_OverflowError, "the clock has come to its end");
        return -1;
    }
    return follow(self, *version);
}

static void
write_big_endian(char *to, uint64_t number, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        to[i] = (char)(number >> 8 * (bytes - 1 - i));
    }
}

int
make_stamp(Usual *self, int64_t ttl_ms, int64_t wall_ms, char *stamp)
{
    uint64_t version;
    ttl_ms = ttl_ms == TTL_DEFAULT ? number_of(self, self->parts[REPLICA], N_DEFAULT_TTL_MS) : ttl_ms;
    if (PyErr_Occurred() || tick(self, wall_ms, &version)) {
        return -1;
    }
    bool is_never = ttl_ms <= TTL_NEVER || ttl_ms > NEVER_MS - wall_ms;
    write_big_endian(stamp, version, 8);
    write_big_endian(stamp + 8, self->boot, 8);
    write_big_endian(stamp + VERSION_BYTES, (uint64_t)(is_never ? NEVER_MS : wall_ms + ttl_ms), STAMP_BYTES - VERSION_BYTES);
    return 0;
}

/* -- Replica.publish ------------------------------------------------------------------------------------------------- */

int
publish(Usual *self, PyObject *keys, const char *stamp)
{
    PyObject *version = PyBytes_FromStringAndSize(stamp, VERSION_BYTES);
    int nobody_follows = version == NULL ? -1 : is_empty(self, self->parts[COPIES], N_FOLLOWED), failed = -1;
    if (nobody_follows == 0) { /* this node keeps copies, which may be void now */
        PyObject *done = PyObject_CallMethodObjArgs(self->parts[REPLICA], self->names[N_PUBLISH].text, self->one, version, keys, NULL);
        failed = done == NULL ? -1 : 0;
        Py_XDECREF(done);
    }
    else if (nobody_follows > 0) {
        PyObject *arguments = Py_BuildValue("((OOO))", self->one, version, keys);
        /* a named tuple's own constructor is in Python, and does this */
        PyObject *event = arguments == NULL ? NULL : PyTuple_Type.tp_new((PyTypeObject *)self->parts[EVENT], arguments, NULL);
        failed = event == NULL || append_in(self, self->parts[OUTBOX], N_EVENTS, event) < 0 ? -1 : 0;
        Py_XDECREF(arguments);
        Py_XDECREF(event);
    }
    Py_XDECREF(version);
    return failed;
}

/* -- Breakers -------------------------------------------------------------------------------------------------------- */

/* Tell whether the breaker of a node is about the process that is asked now; -1: an error. */
static int
is_about(Usual *self, PyObject *node_id, PyObject *boot)
{
    PyObject *known = found_in(self, self->parts[BREAKERS], N_BY_NODE, node_id);
    int is_it = known != NULL && PyTuple_CheckExact(known) && PyTuple_GET_SIZE(known) == 2
                    ? PyObject_RichCompareBool(PyTuple_GET_ITEM(known, 0), boot, Py_EQ)
                    : 0;
    Py_XDECREF(known);
    return PyErr_Occurred() ? -1 : is_it;
}

/* Breakers.sent; the deadline leaves the node FAIR_S at least. */
int
note_sent(Usual *self, PyObject *number, PyObject *node_id, PyObject *boot, double now, double deadline)
{
    PyObject *breakers = self->parts[BREAKERS];
    int is_known = is_about(self, node_id, boot), is_first = is_known > 0 ? is_empty(self, breakers, N_UNANSWERED) : 0;
    if (is_known == 0) {
        PyObject *done = PyObject_CallMethod(breakers, "sent", "OOOd", number, node_id, boot, deadline);
        Py_XDECREF(done);
        return done == NULL ? -1 : 0;
    }
    PyObject *waits = is_known < 0 || is_first < 0 ? NULL : Py_BuildValue("(dO)", Py_MIN(deadline, now + ANSWER_S), node_id);
    PyObject *moment = waits == NULL ? NULL : PyFloat_FromDouble(now);
    int failed = moment == NULL || (is_first && set_attribute(&self->names[N_LOOKED_AT], breakers, moment)) ||
                 put_into(self, breakers, N_UNANSWERED, number, waits);
    Py_XDECREF(waits);
    Py_XDECREF(moment);
    return failed ? -1 : 0;
}

/* Count a success in the bucket of its second, as Breaker.succeed does. */
static int
count_success(Usual *self, PyObject *breaker, double now)
{
    PyObject *buckets = attribute(self, breaker, N_BUCKETS);
    int64_t second = (int64_t)now, before = 0;
    PyObject *bucket = NULL;
    if (buckets != NULL && PyList_CheckExact(buckets) && PyList_GET_SIZE(buckets) == WINDOW_S) {
        bucket = PyList_GET_ITEM(buckets, second % WINDOW_S);
    }
    if (bucket == NULL || !PyList_CheckExact(bucket) || PyList_GET_SIZE(bucket) != 3) {
        Py_XDECREF(buckets);
        PyErr_SetString(PyExc_TypeError, "a breaker must have ten buckets of three numbers");
        return -1;
    }
    bool is_this_second = PyLong_AsLongLong(PyList_GET_ITEM(bucket, 0)) == second;
    if (is_this_second) {
        before = PyLong_AsLongLong(PyList_GET_ITEM(bucket, 1));
    }
    PyObject *successes = PyErr_Occurred() ? NULL : PyLong_FromLongLong(before + 1);
    int failed = successes == NULL || PyList_SetItem(bucket, 1, successes);
    if (!failed && !is_this_second) {
        failed = PyList_SetItem(bucket, 0, PyLong_FromLongLong(second)) || PyList_SetItem(bucket, 2, PyLong_FromLong(0));
    }
    Py_DECREF(buckets);
    return failed ? -1 : 0;
}

/* Find the breaker of a node, held, if it is closed; ``is_open``: there is one, and it is not. */
static PyObject *
closed_breaker(Usual *self, PyObject *node_id, bool *is_open)
{
    PyObject *known = found_in(self, self->parts[BREAKERS], N_BY_NODE, node_id), *breaker = NULL;
    if (known != NULL && PyTuple_CheckExact(known) && PyTuple_GET_SIZE(known) == 2) {
        breaker = PyTuple_GET_ITEM(known, 1);
        *is_open = is_empty(self, breaker, N_OPEN_UNTIL) != 1;
        breaker = *is_open ? NULL : Py_NewRef(breaker);
    }
    Py_XDECREF(known);
    return breaker;
}

/* Breakers.answered */
int
note_answered(Usual *self, PyObject *number, double now)
{
    PyObject *breakers = self->parts[BREAKERS], *waited = found_in(self, breakers, N_UNANSWERED, number);
    if (waited == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    bool is_open = false;
    PyObject *node_id = PyTuple_CheckExact(waited) && PyTuple_GET_SIZE(waited) == 2 ? PyTuple_GET_ITEM(waited, 1) : Py_None;
    PyObject *breaker = closed_breaker(self, node_id, &is_open);
    int failed = PyErr_Occurred() != NULL;
    if (!failed && is_open) {
        failed = call_method(self, breakers, N_ANSWERED, number, NULL);
    }
    else if (!failed) {
        failed = put_into(self, breakers, N_UNANSWERED, number, NULL) ||
                 (breaker != NULL && count_success(self, breaker, now));
    }
    Py_DECREF(waited);
    Py_XDECREF(breaker);
    return failed ? -1 : 0;
}

/* -- Pending --------------------------------------------------------------------------------------------------------- */

/* Pending.begin, with nothing to call at its end; the timer has this number. */
int
begin_operation(Usual *self, PyObject *operation, double now, double deadline, int64_t number)
{
    PyObject *pending = self->parts[PENDING], *began = PyFloat_FromDouble(now), *last = PyLong_FromLongLong(number);
    PyObject *timers = attribute(self, pending, N_TIMERS), *weak = PyWeakref_NewRef(operation, NULL), *pushed = NULL;
    PyObject *timer = began == NULL || last == NULL || weak == NULL ? NULL : Py_BuildValue("(dOO)", deadline, last, weak);
    int failed = timers == NULL || timer == NULL || put_into(self, pending, N_RUNNING, operation, began) ||
                 set_attribute(&self->names[N_NUMBER], pending, last);
    if (!failed) {
        pushed = PyObject_CallFunctionObjArgs(self->parts[HEAPPUSH], timers, timer, NULL);
    }
    Py_XDECREF(began);
    Py_XDECREF(last);
    Py_XDECREF(timers);
    Py_XDECREF(weak);
    Py_XDECREF(timer);
    Py_XDECREF(pushed);
    return pushed == NULL ? -1 : 0;
}

/* Latencies.note */
static int
note_latency(Usual *self, PyObject *operation, PyObject *began, double now)
{
    PyObject *latencies = part_attribute(self, PENDING, N_LATENCIES), *moment = PyFloat_FromDouble(now);
    PyObject *name = attribute(self, (PyObject *)Py_TYPE(operation), N_NAME), *ended = NULL;
    if (latencies != NULL && moment != NULL && name != NULL) {
        ended = PyTuple_Pack(3, name, began, moment);
    }
    Py_ssize_t count = ended == NULL ? -1 : append_in(self, latencies, N_ENDED, ended);
    int failed = count < 0 || (count >= LATENCIES_ENDED_MAX && call_method(self, latencies, N_END_TURN, moment, NULL));
    Py_XDECREF(latencies);
    Py_XDECREF(moment);
    Py_XDECREF(name);
    Py_XDECREF(ended);
    return failed ? -1 : 0;
}

/* Pending.end, for an operation that has not become more than what ``begin_operation`` keeps: it does not linger. */
int
end_operation(Usual *self, PyObject *operation, double now)
{
    PyObject *pending = self->parts[PENDING], *began = found_in(self, pending, N_RUNNING, operation);
    int failed = began != NULL && (put_into(self, pending, N_RUNNING, operation, NULL) ||
                                   note_latency(self, operation, began, now));
    Py_XDECREF(began);
    return failed || PyErr_Occurred() ? -1 : 0;
}
