/* What the functions of serve.c, writes.c, replica.c and bookkeeping.c share: the parts of the node that they work with. */

#ifndef MESHCACHE_USUAL_H
#define MESHCACHE_USUAL_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "request.h"
#include "slots.h"
#include "store_object.h"
#include "wire.h"

#define LEVEL_ALL (-3)
#define LEVEL_QUORUM (-2)
#define LEVEL_ONE (-1)
#define DEFAULT_LEVEL 0

#define LEAD_MS_MAX 5000 /* as clock.py has it */
#define STAMP_BYTES 22   /* version and expiry: what makes a content a record */

/* The parts of the node, by their names as arguments. */
#define PART_LIST(X) \
    X(ADMISSION, "admission") X(ANSWERED, "answered") X(BACKLOG, "backlog") X(BATCHES, "batches") \
    X(BREAKERS, "breakers") X(CLOCK, "clock") X(COPIES, "copies") X(COUNTERS, "counters") X(EVENT, "event") \
    X(GO_ON, "go_on") X(HEAPPUSH, "heappush") X(HOT, "hot") X(INSTANT, "instant") X(IS_NODE, "is_node") \
    X(IS_TRUSTED, "is_trusted") X(NODE, "node") X(OUTBOX, "outbox") X(PEERS, "peers") X(PENDING, "pending") \
    X(REPLICA, "replica") X(STORE, "store") X(VIEW, "view") X(WAITS, "waits") X(REPLY_KIND, "reply_kind")

/* Names of what is looked at in them. */
#define NAME_LIST(X) \
    X(ADDRESS, "address") X(ANSWERED, "answered") X(BOOT, "boot") X(BUCKETS, "buckets") \
    X(BY_NODE, "by_node") X(BYTES, "bytes") X(BYTES_LEFT, "bytes_left") X(DEAF, "deaf") \
    X(DEFAULT_TTL_MS, "default_ttl_ms") X(DIGEST, "digest") X(DOUBT, "doubt") X(END, "end") X(ENDED, "ended") \
    X(END_TURN, "end_turn") X(EVENTS, "events") X(FACT, "fact") X(FIELDS, "fields") X(FIRST, "first") \
    X(FLOORS, "floors") X(FOLLOWED, "followed") X(FORMER, "former") X(GET, "Get") X(GREATEST, "greatest") X(HANDSHAKE, "handshake") \
    X(HELD, "held") X(HOLDS_ALL, "holds_all") X(JOINED, "joined") X(KEYS, "keys") X(KEPT, "kept") \
    X(LATENCIES, "latencies") X(LATEST, "latest") X(LEFT, "left") X(LINKS, "links") \
    X(LOOKED_AT, "looked_at") X(MAJORITY, "majority") X(MEMBERS, "members") X(MEMBERSHIP, "membership") \
    X(MEMORY, "memory") X(NAME, "__name__") X(NODE_ID, "node_id") X(NOTE, "note") X(NOW, "now") \
    X(NOW_BYTES, "now_bytes") X(NUMBER, "number") X(OFFSET_MS, "offset_ms") X(OPEN, "open") \
    X(OPEN_UNTIL, "open_until") X(ORIGIN, "origin") X(OWNED, "owned") X(OWNERS, "owners") X(OWNER_SETS, "owner_sets") X(PLACES, "places") \
    X(PUBLISH, "publish") X(READ, "read") X(READERS, "readers") X(READY, "ready") X(RECORDS, "records") \
    X(REMOVED, "removed") X(REPLIES, "replies") X(REPLY_BYTES, "reply_bytes") X(REQUESTS, "requests") \
    X(RING, "ring") X(RUNNING, "running") X(SENDS, "sends") X(SET, "Set") X(STATE, "state") \
    X(TAKE_WRITE, "take_write") X(TIMERS, "timers") X(UNANSWERED, "unanswered") X(UNTIL, "until") \
    X(WAITING, "waiting") X(WALL_MS, "wall_ms") X(WATCHED, "watched")

#define AS_PART(name, text) name,
enum part { PART_LIST(AS_PART) PARTS };
#define AS_NAME(name, text) N_##name,
enum name { NAME_LIST(AS_NAME) NAMES };

typedef struct {
    PyObject_HEAD
    PyObject *parts[PARTS];
    Name names[NAMES];
    PyObject *one;       /* the number, for counting */
    PyObject *own_id;    /* of this node */
    struct store *store; /* the store, if it is native; else NULL, and its methods are called */
    uint64_t boot;
    Py_ssize_t pending_max;
    int64_t reply_bytes_max;
    int64_t value_bytes_max;
    int reads_one; /* whether a GET at the mesh's own level needs one holder */
    int64_t replicas;
    int64_t write_quorum;
    double slow_s; /* what takes as long is told of */
    int sets;         /* whether SETs are served, too */
    PyObject **reply; /* where a small reply goes instead of the outbox, or NULL: see serve_at_once */
} Usual;

/* -- parts -------------------------------------------------------------------------------------------------------- */

static inline PyObject *
attribute(Usual *self, PyObject *of, enum name name)
{
    return get_attribute(&self->names[name], of);
}

static inline PyObject *
part_attribute(Usual *self, enum part part, enum name name)
{
    return get_attribute(&self->names[name], self->parts[part]);
}

/* Read an attribute that is a number. -1 may be an error: see PyErr_Occurred. */
static inline int64_t
number_of(Usual *self, PyObject *of, enum name name)
{
    PyObject *value = attribute(self, of, name);
    if (value == NULL) {
        return -1;
    }
    int64_t number = PyLong_AsLongLong(value);
    Py_DECREF(value);
    return number;
}

/* Add to an attribute that is a number. */
static inline int
add_to_attribute(Usual *self, enum part part, enum name name, PyObject *more)
{
    PyObject *before = part_attribute(self, part, name);
    if (before == NULL) {
        return -1;
    }
    PyObject *after = PyNumber_Add(before, more);
    Py_DECREF(before);
    if (after == NULL) {
        return -1;
    }
    int failed = set_attribute(&self->names[name], self->parts[part], after);
    Py_DECREF(after);
    return failed;
}

/* Add 1 to what a dict has by a name. */
static inline int
count_in(Usual *self, PyObject *dict, enum name name)
{
    PyObject *before = PyDict_GetItemWithError(dict, self->names[name].text);
    if (before == NULL) {
        return PyErr_Occurred() ? -1 : PyDict_SetItem(dict, self->names[name].text, self->one);
    }
    PyObject *after = PyNumber_Add(before, self->one);
    if (after == NULL) {
        return -1;
    }
    int failed = PyDict_SetItem(dict, self->names[name].text, after);
    Py_DECREF(after);
    return failed;
}

/* Tell whether a container that is an attribute is empty; -1: an error. */
static inline int
is_empty(Usual *self, PyObject *of, enum name name)
{
    PyObject *container = attribute(self, of, name);
    if (container == NULL) {
        return -1;
    }
    int truth = PyObject_IsTrue(container);
    Py_DECREF(container);
    return truth < 0 ? -1 : !truth;
}

/* -- serve.c --------------------------------------------------------------------------------------------------------- */

/* Tell whether a table of the view has 1 for the slot of each key. */
Outcome all_in(Usual *self, const Request *request, enum name name);
/* Tell whether no other ring is to be thought of. */
Outcome is_settled(Usual *self);
/* Count a request of a client and its keys, as requests.py does first. */
int count_request(Usual *self, const Request *request);

/* Tell whether the clock of another node may be followed, as HybridClock.merge does. ``is_ahead``: whether it need be. */
Outcome may_follow(Usual *self, uint64_t clock, int64_t wall_ms, bool *is_ahead);
int follow(Usual *self, uint64_t clock);

/* What a frame with one message begins with. */
typedef struct {
    uint64_t clock;
    uint64_t number;
    PyObject *view;
} Head;

/* Take what the node says in each answer now; ``view`` is to be given back. */
int take_head(Usual *self, uint64_t number, Head *head);
/* Make a frame with one message of this kind, with so many fields in all, and room for so many bytes after number and
 * view, the first of its fields; tell where they go. */
PyObject *frame_with(const Head *head, uint64_t kind, uint32_t fields, size_t size, uint8_t **to);
/* Make a frame with one REPLY whose results are nil. */
PyObject *done_frame(Usual *self, uint64_t number);
/* Put a frame with one message among the replies of the turn, or where it is wanted; it takes the reference. */
int put(Usual *self, PyObject *origin, PyObject *frame);
/* Answer a GET or a SET with a frame; it takes the reference. */
int answer(Usual *self, PyObject *origin, uint64_t kind, PyObject *frame);

/* -- writes.c -------------------------------------------------------------------------------------------------------- */

Outcome serve_set(Usual *self, PyObject *origin, Request *set);
/* Take what a node that this one asked, at this address, has answered. ``origin``: whom that answers, with ``reply``. */
Outcome serve_write_reply(Usual *self, PyObject *address, const uint8_t *data, size_t size, PyObject **origin);
/* -- bookkeeping.c --------------------------------------------------------------------------------------------------- */

/* Tell whether clients are served. */
Outcome is_ready(Usual *self);
/* Make the STAMP_BYTES of what is written now, to live for so long. */
int make_stamp(Usual *self, int64_t ttl_ms, int64_t wall_ms, char *stamp);
/* Announce that keys were stored, by the version that a record or stamp begins with. */
int publish(Usual *self, PyObject *keys, const char *stamp);
/* Take note, for the breaker of a node, that it was asked by the request with this number, or has answered it. */
int note_sent(Usual *self, PyObject *number, PyObject *node_id, PyObject *boot, double now, double deadline);
int note_answered(Usual *self, PyObject *number, double now);
/* Keep an operation until its deadline, by the timer with this number; forget it. */
int begin_operation(Usual *self, PyObject *operation, double now, double deadline, int64_t number);
int end_operation(Usual *self, PyObject *operation, double now);

/* -- replica.c ------------------------------------------------------------------------------------------------------- */

/* Call Replica.take_write with two lists, or with NULL where there is an exception: two lists in a tuple. */
PyObject *take_write(Usual *self, PyObject *keys, PyObject *records);
/* Tell whether storing is all that Replica.take_write would do, and can be done here. */
Outcome is_only_to_be_stored(Usual *self);
/* A key and the record that is to be stored under it. */
typedef struct {
    const Slice *key;
    struct record record;
} Pair;

/* Do that: return what Store.merge does. */
PyObject *merge_here(struct store *store, const Pair *pairs, uint32_t count, int64_t now_ms);

/* Serve what another node asks this one to store. */
Outcome serve_write(Usual *self, PyObject *origin, Request *write);

#endif
