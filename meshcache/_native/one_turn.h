/* What turns.c and one_turn.c share: the parts of a node that its turns work with, and the state of a run of turns. */

#ifndef MESHCACHE_ONE_TURN_H
#define MESHCACHE_ONE_TURN_H

#include "slots.h"
#include "turns.h"

#ifdef __linux__

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

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

/* Names of what is looked at in them. */
#define NAME_LIST(X) \
    X(ANSWERS_IN_BYTES, "answers_in_bytes") X(ANSWERS_OUT_BYTES, "answers_out_bytes") X(BOUNDS, "bounds") \
    X(BUSY_S, "busy_s") X(BYTES_LEFT, "bytes_left") X(COUNTS, "counts") X(DISTURBED, "disturbed") \
    X(ENDED, "ended") X(EVENTS, "events") X(FRAMES, "frames") X(GET, "get") X(HAND, "hand") \
    X(IN_HAND, "in_hand") X(KINDS, "kinds") X(KNOWN, "known") X(LONGEST_TURN_MS, "longest_turn_ms") \
    X(NOW, "now") X(NOW_BYTES, "now_bytes") X(PUBLISHED, "published") X(REPLIES, "replies") \
    X(REQUESTS_IN_BYTES, "requests_in_bytes") X(REQUESTS_OUT_BYTES, "requests_out_bytes") \
    X(REVIEW_AT_BYTES, "review_at_bytes") X(SENDS, "sends") X(SEQUENCE, "sequence") X(SUBSCRIBED, "subscribed") \
    X(TAKEN, "taken") X(TAKEN_BYTES, "taken_bytes") X(TAKE_RECEIVED, "take_received") X(TOTAL, "total") \
    X(TURNED_AT, "turned_at") X(TURNS, "turns") X(UNASKED_BYTES, "unasked_bytes") \
    X(UNDELIVERABLE, "undeliverable") X(WAITED_S, "waited_s") X(WALL_MS, "wall_ms")
#define AS_NAME(name, text) N_##name,
enum name { NAME_LIST(AS_NAME) NAMES };

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
    Name names[NAMES];
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
static inline double
clock_s(clockid_t which)
{
    struct timespec at;
    clock_gettime(which, &at);
    return (double)((int64_t)at.tv_sec * 1000000000 + at.tv_nsec) / 1e9;
}

static inline PyObject *
part_attribute(Turns *self, enum part part, enum name name)
{
    return get_attribute(&self->names[name], self->parts[part]);
}

static inline int
set_number(Turns *self, PyObject *of, enum name name, int64_t value)
{
    PyObject *number = PyLong_FromLongLong(value);
    int failed = number == NULL ? -1 : set_attribute(&self->names[name], of, number);
    Py_XDECREF(number);
    return failed;
}

static inline int
set_seconds(Turns *self, PyObject *of, enum name name, double value)
{
    PyObject *number = PyFloat_FromDouble(value);
    int failed = number == NULL ? -1 : set_attribute(&self->names[name], of, number);
    Py_XDECREF(number);
    return failed;
}

/* Read an attribute that is a whole number. -1 may be an error: see PyErr_Occurred. */
static inline int64_t
number_of(Turns *self, PyObject *of, enum name name)
{
    PyObject *value = get_attribute(&self->names[name], of);
    int64_t number = value == NULL ? -1 : PyLong_AsLongLong(value);
    Py_XDECREF(value);
    return number;
}

/* The same of one that is a number of seconds, or of milliseconds. */
static inline double
seconds_of(Turns *self, PyObject *of, enum name name)
{
    PyObject *value = get_attribute(&self->names[name], of);
    double number = value == NULL ? -1 : PyFloat_AsDouble(value);
    Py_XDECREF(value);
    return number;
}

static inline int
add_number(Turns *self, PyObject *of, enum name name, int64_t more)
{
    int64_t before = more == 0 ? 0 : number_of(self, of, name);
    return more == 0 ? 0 : PyErr_Occurred() ? -1 : set_number(self, of, name, before + more);
}

/* Call something for what it does. */
static inline int
call(PyObject *what, PyObject *first, PyObject *second)
{
    PyObject *done = PyObject_CallFunctionObjArgs(what, first, second, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* -- one_turn.c ------------------------------------------------------------------------------------------------------ */

/* Read the socket's state, as Inlet.has_input does. What cannot be read is for the inlet to find out. */
bool has_input(Turns *self, const Line *line);
/* Make an object of a part. */
PyObject *bytes_of(Turns *self, Message *message);
/* Receive a part: 0, or the number of the error. The message must be closed only if there is none. */
int receive(Turns *self, const Line *line, Message *message);
/* Find a connection; NULL without an exception if it is not known. */
PyObject *connection_of(Turns *self, PyObject *origin);
/* Take one message from each line that has any, and do what follows. */
Step turn(Turns *self, Run *run);
/* Let go of the replies that a turn holds. */
void release(Run *run);

#endif

#endif
