/* The node's usual requests, from frame to reply without a Python object for each of their fields.
 *
 * What is usual: a frame with one GET or SET of a client, for keys of which this node needs to ask nobody else: a GET that
 * one holder may answer, a SET of keys that only this node owns. ``UsualRequests.serve`` does with such a frame what
 * requests.py does with it, its specification, and in the same order. All else it leaves to that, in one of two ways:
 *
 *   before anything has changed  serve returns False: the frame is for Python to decode, judge and answer;
 *   in the middle                a key was not held, say: it calls the method of Requests that goes on from there, with
 *                                what is done so far, and returns None.
 *
 * It keeps no state of the node. It looks at what the parts of the node hold at the moment, and calls their methods for
 * whatever changes more than a counter: so a part need not tell of its changes, and none can be missed. What the parts
 * are is said once, when it is made. A method may change anything that it likes, so nothing borrowed from a part outlives
 * a call: hence the references taken.
 *
 * The frame is hostile until it is read to its end. Reading it allocates no more than the keys and records in it take. */

#include "serve.h"

#include "store_object.h"
#include "wire.h"

#define REPLY 20
#define MORE 7
#define MORE_BYTES 2 /* of [Code.MORE] */

#define STAMP_BYTES 22

#define LEVEL_ALL (-3)
#define LEVEL_ONE (-1)
#define DEFAULT_LEVEL 0

#define SMALL_REPLY_BYTES (1 << 16)
#define PRESSED_BYTES_LEFT (32 << 20)
#define COUNTED_BYTES_MIN 4096

/* The parts of the node that are worked with, by their names as arguments. */
enum part {
    ADMISSION, ANSWERED, BACKLOG, BATCHES, CLOCK, COUNTERS, GO_ON, HOT, INSTANT, IS_TRUSTED, OUTBOX, PENDING, READY,
    REPLICA, STORE, VIEW, PARTS
};
static char *PART_NAMES[] = {
    "admission", "answered", "backlog", "batches", "clock", "counters", "go_on", "hot", "instant", "is_trusted",
    "outbox", "pending", "ready", "replica", "store", "view", "boot", "pending_max", "reply_bytes_max",
    "value_bytes_max", "reads_one", "replicas", "sets", NULL
};

/* Names of what is looked at in them. */
enum name {
    N_BYTES, N_BYTES_LEFT, N_DEAF, N_DIGEST, N_EXPIRES_MS, N_FORMER, N_GET, N_HELD, N_HOLDS_ALL, N_KEYS,
    N_LATEST, N_LEFT, N_MEMBERS, N_NOTE, N_NOW, N_NOW_BYTES, N_OWNED, N_PUBLISH, N_READ, N_READERS, N_REPLIES,
    N_REPLY_BYTES, N_REQUESTS, N_RING, N_RUNNING, N_SET, N_STAMP, N_TAKE_WRITE, N_UNTIL, N_WALL_MS, NAMES
};
static const char *const NAME_TEXTS[NAMES] = {
    "bytes", "bytes_left", "deaf", "digest", "expires_ms", "former", "Get", "held", "holds_all", "keys",
    "latest", "left", "members", "note", "now", "now_bytes", "owned", "publish", "read", "readers", "replies",
    "reply_bytes", "requests", "ring", "running", "Set", "stamp", "take_write", "until", "wall_ms"
};

typedef struct {
    PyObject_HEAD
    PyObject *parts[PARTS];
    PyObject *names[NAMES];
    PyObject *one;       /* the number, for counting */
    struct store *store; /* the store, if it is native; else NULL, and its methods are called */
    uint64_t boot;
    Py_ssize_t pending_max;
    int64_t reply_bytes_max;
    int64_t value_bytes_max;
    int reads_one; /* whether a GET at the mesh's own level needs one holder */
    int64_t replicas;
    int sets; /* whether SETs are served, too */
    PyObject **reply; /* where a small reply goes instead of the outbox, or NULL: see serve_at_once */
} Usual;

/* -- parts -------------------------------------------------------------------------------------------------------- */

static PyObject *
attribute(Usual *self, PyObject *of, enum name name)
{
    return PyObject_GetAttr(of, self->names[name]);
}

static PyObject *
part_attribute(Usual *self, enum part part, enum name name)
{
    return PyObject_GetAttr(self->parts[part], self->names[name]);
}

/* Read an attribute that is a number. -1 may be an error: see PyErr_Occurred. */
static int64_t
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
static int
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
    int failed = PyObject_SetAttr(self->parts[part], self->names[name], after);
    Py_DECREF(after);
    return failed;
}

/* Add 1 to what a dict has by a name. */
static int
count_in(Usual *self, PyObject *dict, enum name name)
{
    PyObject *before = PyDict_GetItemWithError(dict, self->names[name]);
    if (before == NULL) {
        return PyErr_Occurred() ? -1 : PyDict_SetItem(dict, self->names[name], self->one);
    }
    PyObject *after = PyNumber_Add(before, self->one);
    if (after == NULL) {
        return -1;
    }
    int failed = PyDict_SetItem(dict, self->names[name], after);
    Py_DECREF(after);
    return failed;
}

/* Tell whether a container that is an attribute is empty; -1: an error. */
static int
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

/* -- admission: as admission.py and access.py have it ---------------------------------------------------------------- */

static Outcome
is_heard(Usual *self, PyObject *origin)
{
    PyObject *readers = part_attribute(self, ADMISSION, N_READERS);
    if (readers == NULL) {
        return FAILED;
    }
    PyObject *deaf = attribute(self, readers, N_DEAF);
    Py_DECREF(readers);
    if (deaf == NULL) {
        return FAILED;
    }
    int is_deaf = PySequence_Contains(deaf, origin);
    Py_DECREF(deaf);
    return is_deaf < 0 ? FAILED : !is_deaf;
}

static Outcome
has_room(Usual *self)
{
    PyObject *running = part_attribute(self, PENDING, N_RUNNING);
    if (running == NULL) {
        return FAILED;
    }
    Py_ssize_t count = PyObject_Size(running);
    Py_DECREF(running);
    return count < 0 ? FAILED : count < self->pending_max;
}

static Outcome
admit(Usual *self, PyObject *origin, const Request *request)
{
    int64_t wall_ms = number_of(self, self->parts[INSTANT], N_WALL_MS);
    if (wall_ms == -1 && PyErr_Occurred()) {
        return FAILED;
    }
    if (request->deadline_ms < wall_ms) {
        return UNUSUAL;
    }
    PyObject *ready = PyObject_CallNoArgs(self->parts[READY]);
    if (ready == NULL) {
        return FAILED;
    }
    int is_ready = PyObject_IsTrue(ready);
    Py_DECREF(ready);
    if (is_ready <= 0) {
        return is_ready < 0 ? FAILED : UNUSUAL;
    }
    Outcome outcome = has_room(self);
    if (outcome == DONE) {
        outcome = is_heard(self, origin);
    }
    if (outcome != DONE || self->parts[IS_TRUSTED] == Py_None) {
        return outcome;
    }
    PyObject *trusted = PyObject_CallOneArg(self->parts[IS_TRUSTED], origin);
    if (trusted == NULL) {
        return FAILED;
    }
    int is_trusted = PyObject_IsTrue(trusted);
    Py_DECREF(trusted);
    return is_trusted < 0 ? FAILED : is_trusted;
}

/* Tell whether a table of the view has 1 for the slot of each key. */
static Outcome
all_in(Usual *self, const Request *request, enum name name)
{
    PyObject *table = part_attribute(self, VIEW, name);
    if (table == NULL) {
        return FAILED;
    }
    Outcome outcome = UNUSUAL;
    Py_ssize_t slots = PyByteArray_Check(table) ? PyByteArray_GET_SIZE(table) : 0;
    if (slots > 0) {
        const char *bytes = PyByteArray_AS_STRING(table);
        outcome = DONE;
        for (uint32_t i = 0; i < request->count && outcome == DONE; i++) {
            uint32_t hash = crc32_of((const char *)request->keys[i].data, request->keys[i].size);
            outcome = bytes[hash & (size_t)(slots - 1)] ? DONE : UNUSUAL;
        }
    }
    Py_DECREF(table);
    return outcome;
}

/* Tell whether no other ring is to be thought of. */
static Outcome
is_settled(Usual *self)
{
    int empty = is_empty(self, self->parts[VIEW], N_FORMER);
    return empty < 0 ? FAILED : empty;
}

/* Count a request and its keys, as requests.py does first. */
static int
count_request(Usual *self, const Request *request)
{
    PyObject *count = PyLong_FromUnsignedLong(request->count);
    if (count == NULL) {
        return -1;
    }
    int failed = add_to_attribute(self, COUNTERS, N_REQUESTS, self->one) || add_to_attribute(self, COUNTERS, N_KEYS, count);
    Py_DECREF(count);
    if (failed) {
        return -1;
    }
    Py_ssize_t bits = 0;
    for (uint32_t left = request->count - 1; left; left >>= 1) {
        bits++;
    }
    PyObject *batches = self->parts[BATCHES];
    PyObject *more = PyNumber_Add(PyList_GetItem(batches, bits), self->one);
    return more == NULL ? -1 : PyList_SetItem(batches, bits, more);
}

/* -- replying -------------------------------------------------------------------------------------------------------- */

/* What a frame with one REPLY begins with. */
typedef struct {
    uint64_t clock;
    uint64_t number;
    PyObject *view;
} Head;

static int
take_head(Usual *self, const Request *request, Head *head)
{
    PyObject *latest = part_attribute(self, CLOCK, N_LATEST);
    if (latest == NULL) {
        return -1;
    }
    head->clock = PyLong_AsUnsignedLongLong(latest);
    Py_DECREF(latest);
    if (head->clock == (uint64_t)-1 && PyErr_Occurred()) {
        return -1;
    }
    head->number = request->number;
    head->view = part_attribute(self, VIEW, N_DIGEST);
    if (head->view != NULL && !PyBytes_Check(head->view)) {
        Py_CLEAR(head->view);
        PyErr_SetString(PyExc_TypeError, "the digest of a view must be bytes");
    }
    return head->view == NULL ? -1 : 0;
}

/* Make a frame that has room for so many bytes after its head, and tell where they go. */
static PyObject *
frame_with(const Head *head, size_t size, uint8_t **to)
{
    size_t view_bytes = (size_t)PyBytes_GET_SIZE(head->view);
    size += 3 + size_of_uint(head->clock) + size_of_uint(head->number) + size_of_bin(view_bytes);
    PyObject *frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (frame != NULL) {
        *to = write_array((uint8_t *)PyBytes_AS_STRING(frame), 2);
        *to = write_array(write_uint(*to, head->clock), 4);
        *to = write_uint(write_uint(*to, REPLY), head->number);
        *to = write_bin(*to, PyBytes_AS_STRING(head->view), view_bytes);
    }
    return frame;
}

/* Make a frame with one REPLY. ``results``: a list of bytes, or NULL for nil. */
static PyObject *
reply_frame(Usual *self, const Request *request, PyObject *results)
{
    Head head;
    if (take_head(self, request, &head)) {
        return NULL;
    }
    Py_ssize_t count = results == NULL ? 0 : PyList_GET_SIZE(results);
    size_t size = results == NULL ? 1 : size_of_array((uint32_t)count);
    for (Py_ssize_t i = 0; i < count; i++) {
        size += size_of_bin((size_t)PyBytes_GET_SIZE(PyList_GET_ITEM(results, i)));
    }
    uint8_t *to;
    PyObject *frame = frame_with(&head, size, &to);
    Py_DECREF(head.view);
    if (frame == NULL) {
        return NULL;
    }
    to = results == NULL ? write_nil(to) : write_array(to, (uint32_t)count);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *record = PyList_GET_ITEM(results, i);
        to = write_bin(to, PyBytes_AS_STRING(record), (size_t)PyBytes_GET_SIZE(record));
    }
    return frame;
}

/* Put a frame with one message among the replies of the turn, or where it is wanted; it takes the reference. */
static int
put(Usual *self, PyObject *origin, PyObject *frame)
{
    if (frame == NULL) {
        return -1;
    }
    if (self->reply != NULL && PyBytes_GET_SIZE(frame) <= SMALL_REPLY_BYTES) {
        *self->reply = frame;
        return 0;
    }
    int failed = -1;
    PyObject *replies = part_attribute(self, OUTBOX, N_REPLIES);
    PyObject *waiting = replies == NULL ? NULL : PyDict_GetItemWithError(replies, origin);
    if (waiting != NULL) {
        failed = PyList_Append(waiting, frame);
    }
    else if (!PyErr_Occurred()) {
        PyObject *messages = PyList_New(1);
        if (messages != NULL) {
            PyList_SET_ITEM(messages, 0, Py_NewRef(frame));
            failed = PyDict_SetItem(replies, origin, messages);
            Py_DECREF(messages);
        }
    }
    Py_XDECREF(replies);
    Py_DECREF(frame);
    return failed;
}

/* Answer with a frame; it takes the reference. */
static int
answer(Usual *self, PyObject *origin, const Request *request, PyObject *frame)
{
    if (frame != NULL && count_in(self, self->parts[ANSWERED], request->kind == GET ? N_GET : N_SET)) {
        Py_CLEAR(frame);
    }
    return put(self, origin, frame);
}

/* Have Python go on in the middle of a request, with what is done so far (stolen). */
static Outcome
go_on(Usual *self, PyObject *origin, Request *request, PyObject *so_far)
{
    PyObject *view = PyBytes_FromStringAndSize((const char *)request->view.data, (Py_ssize_t)request->view.size);
    PyObject *keys = keys_of(request);
    PyObject *contents = request->kind == SET ? list_of(request->contents, request->count) : Py_NewRef(Py_None);
    PyObject *done = NULL;
    if (view != NULL && keys != NULL && contents != NULL && so_far != NULL) {
        unsigned long long number = request->number, boot = self->boot;
        long long deadline_ms = request->deadline_ms, r = request->r, w = request->w, ttl_ms = request->ttl_ms;
        done = request->kind == GET
                   ? PyObject_CallMethod(self->parts[GO_ON], "go_on_with_get", "O(KKLOLLOO)O", origin, number, boot,
                                         deadline_ms, view, r, w, Py_False, keys, so_far)
                   : PyObject_CallMethod(self->parts[GO_ON], "go_on_with_set", "O(KKLOLLOO)O", origin, number, boot,
                                         deadline_ms, view, w, ttl_ms, keys, contents, so_far);
    }
    Py_XDECREF(view);
    Py_XDECREF(contents);
    Py_XDECREF(so_far);
    Py_XDECREF(done);
    return done == NULL ? FAILED : WENT_ON;
}

/* -- GET ------------------------------------------------------------------------------------------------------------- */

/* Tell whether this node may answer for the keys by itself. */
static Outcome
is_held_here(Usual *self, const Request *get)
{
    if (!(get->r == LEVEL_ONE || get->r == 1 || (get->r == DEFAULT_LEVEL && self->reads_one)) || get->w > self->replicas ||
        get->w < LEVEL_ALL) {
        return UNUSUAL;
    }
    Outcome outcome = is_settled(self);
    if (outcome != DONE) {
        return outcome;
    }
    PyObject *all = part_attribute(self, VIEW, N_HOLDS_ALL);
    if (all == NULL) {
        return FAILED;
    }
    Py_DECREF(all);
    return all == Py_True ? DONE : all_in(self, get, N_HELD);
}

/* Take note of a read, for hot keys. Most are only counted down. */
static int
note_read(Usual *self, Request *get)
{
    PyObject *hot = self->parts[HOT];
    int64_t left = number_of(self, hot, N_LEFT);
    if (left == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (left != 1) {
        PyObject *less = PyLong_FromLongLong(left - 1);
        int failed = less == NULL ? -1 : PyObject_SetAttr(hot, self->names[N_LEFT], less);
        Py_XDECREF(less);
        return failed;
    }
    PyObject *keys = keys_of(get), *now = part_attribute(self, INSTANT, N_NOW), *done = NULL;
    if (keys != NULL && now != NULL) {
        done = PyObject_CallMethodObjArgs(hot, self->names[N_NOTE], keys, now, NULL);
    }
    Py_XDECREF(now);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Tell whether one of the keys is hot: 1, 0, or -1 for an error. */
static int
any_is_hot(Usual *self, Request *get)
{
    PyObject *until = part_attribute(self, HOT, N_UNTIL);
    if (until == NULL) {
        return -1;
    }
    int found = 0;
    if (PyDict_GET_SIZE(until) > 0) {
        PyObject *keys = keys_of(get);
        found = keys == NULL ? -1 : 0;
        for (Py_ssize_t i = 0; found == 0 && i < PyList_GET_SIZE(keys); i++) {
            found = PyDict_Contains(until, PyList_GET_ITEM(keys, i));
        }
    }
    Py_DECREF(until);
    return found;
}

/* Tell whether values of so many bytes may be sent, as far as a reply goes, and add them to those of the turn if they
 * count. */
static Outcome
may_send(Usual *self, int64_t size)
{
    if (size <= SMALL_REPLY_BYTES) {
        return DONE;
    }
    PyObject *readers = part_attribute(self, ADMISSION, N_READERS);
    int64_t left = readers == NULL ? -1 : number_of(self, readers, N_BYTES_LEFT);
    Py_XDECREF(readers);
    int64_t so_far = PyErr_Occurred() ? -1 : number_of(self, self->parts[OUTBOX], N_REPLY_BYTES);
    if (PyErr_Occurred()) {
        return FAILED;
    }
    size = size < self->reply_bytes_max ? size : self->reply_bytes_max;
    if (left - so_far < PRESSED_BYTES_LEFT || so_far + size > left) {
        return UNUSUAL;
    }
    PyObject *more = PyLong_FromLongLong(size);
    int failed = more == NULL || add_to_attribute(self, OUTBOX, N_REPLY_BYTES, more);
    Py_XDECREF(more);
    return failed ? FAILED : DONE;
}

/* Read the keys: a new list of records, some of which may be None. */
static PyObject *
records_of(Usual *self, Request *get)
{
    PyObject *keys = keys_of(get), *now_bytes = keys == NULL ? NULL : part_attribute(self, INSTANT, N_NOW_BYTES);
    if (now_bytes == NULL) {
        return NULL;
    }
    PyObject *records = PyObject_CallMethodObjArgs(self->parts[STORE], self->names[N_READ], keys, now_bytes, NULL);
    Py_DECREF(now_bytes);
    if (records != NULL && !PyList_CheckExact(records)) {
        PyErr_SetString(PyExc_TypeError, "Store.read must return a list");
        Py_CLEAR(records);
    }
    return records;
}

/* Answer a GET with what the store returns as objects. */
static Outcome
answer_by_objects(Usual *self, PyObject *origin, Request *get, bool hot)
{
    PyObject *records = records_of(self, get);
    if (records == NULL) {
        return FAILED;
    }
    int64_t size = 0;
    bool held = PyList_GET_SIZE(records) == get->count;
    for (Py_ssize_t i = 0; held && i < PyList_GET_SIZE(records); i++) {
        PyObject *record = PyList_GET_ITEM(records, i);
        held = PyBytes_CheckExact(record);
        size += held ? PyBytes_GET_SIZE(record) : 0;
    }
    bool short_of = size > SMALL_REPLY_BYTES && size > self->reply_bytes_max;
    Outcome outcome = hot || !held || short_of ? UNUSUAL : may_send(self, size);
    if (outcome == UNUSUAL) {
        return go_on(self, origin, get, records);
    }
    if (outcome == DONE && answer(self, origin, get, reply_frame(self, get, records))) {
        outcome = FAILED;
    }
    Py_DECREF(records);
    return outcome;
}

/* What a GET found in the native store. */
typedef struct {
    uint32_t indices[GET_KEYS_MAX];
    uint32_t given; /* so many of the keys fit into the reply; for the others the client asks again */
    int64_t bytes;  /* of all records */
} Found;

/* Look keys up; false unless all are live. */
static bool
look_up(const struct store *store, const Request *get, int64_t now_ms, int64_t reply_bytes_max, Found *found)
{
    struct key keys[KEYS_AT_ONCE];
    found->bytes = found->given = 0;
    for (uint32_t start = 0; start < get->count; start += KEYS_AT_ONCE) {
        uint32_t count = get->count - start < KEYS_AT_ONCE ? get->count - start : KEYS_AT_ONCE;
        for (uint32_t i = 0; i < count; i++) {
            const Slice *key = &get->keys[start + i];
            if (key->size > KEY_SIZE_MAX) {
                return false;
            }
            keys[i] = store_key(store, (const char *)key->data, (Py_ssize_t)key->size);
        }
        store_fetch(store, keys, count);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t index = store_find(store, &keys[i]);
            struct record record;
            if (index == 0 || !is_live((record = store_record(store, index)).bytes, now_ms)) {
                return false;
            }
            found->indices[start + i] = index;
            found->bytes += record.length;
            if (found->bytes <= reply_bytes_max || start + i == 0) {
                found->given = start + i + 1;
            }
        }
    }
    if (found->bytes <= SMALL_REPLY_BYTES) {
        found->given = get->count;
    }
    return true;
}

/* Make the frame for what was found, and count the reads as hits. */
static PyObject *
frame_from_store(struct store *store, const Request *get, const Head *head, const Found *found)
{
    size_t size = size_of_array(get->count) + (get->count - found->given) * MORE_BYTES;
    for (uint32_t i = 0; i < found->given; i++) {
        size += size_of_bin((size_t)store_record(store, found->indices[i]).length);
    }
    uint8_t *to;
    PyObject *frame = frame_with(head, size, &to);
    if (frame == NULL) {
        return NULL;
    }
    to = write_array(to, get->count);
    for (uint32_t i = 0; i < get->count; i++) {
        if (i < found->given) {
            struct record record = store_record(store, found->indices[i]);
            to = write_bin(to, record.bytes, (size_t)record.length);
        }
        else {
            to = write_uint(write_array(to, 1), MORE);
        }
        store_note_hit(store, found->indices[i]);
    }
    return frame;
}

/* Answer a GET straight from the native store. It is unusual, and nothing has changed, if a key is not held there, or the
 * values are so many bytes that it depends on the readers whether they may be sent. */
static Outcome
answer_from_store(Usual *self, PyObject *origin, const Request *get)
{
    struct store *store = self->store;
    int64_t now_ms = number_of(self, self->parts[INSTANT], N_WALL_MS);
    Found found;
    Head head;
    if (PyErr_Occurred() || take_head(self, get, &head)) {
        return FAILED;
    }
    PyObject *frame = NULL;
    Outcome outcome = UNUSUAL;
    /* From here to the end of the frame no Python code runs but for reading numbers: the records stay where they are. */
    if (look_up(store, get, now_ms, self->reply_bytes_max, &found)) {
        outcome = may_send(self, found.bytes);
    }
    if (outcome == DONE) {
        frame = frame_from_store(store, get, &head, &found);
    }
    Py_DECREF(head.view);
    return outcome != DONE ? outcome : answer(self, origin, get, frame) ? FAILED : DONE;
}

static Outcome
serve_get(Usual *self, PyObject *origin, Request *get)
{
    Outcome outcome = is_held_here(self, get);
    if (outcome != DONE) {
        return outcome;
    }
    if (count_request(self, get) || note_read(self, get)) {
        return FAILED;
    }
    int hot = any_is_hot(self, get);
    if (hot < 0) {
        return FAILED;
    }
    outcome = self->store != NULL && !hot ? answer_from_store(self, origin, get) : UNUSUAL;
    return outcome == UNUSUAL ? answer_by_objects(self, origin, get, hot) : outcome;
}

/* -- SET ------------------------------------------------------------------------------------------------------------- */

/* Tell whether this node is the only owner of the keys: a level is then reached, or cannot be. */
static Outcome
is_owned_alone(Usual *self, const Request *set)
{
    if (set->w > 1 || set->w > self->replicas || set->w < LEVEL_ALL) {
        return UNUSUAL;
    }
    Outcome outcome = is_settled(self);
    if (outcome != DONE) {
        return outcome;
    }
    if (self->replicas > 1) {
        PyObject *ring = part_attribute(self, VIEW, N_RING);
        PyObject *members = ring == NULL ? NULL : attribute(self, ring, N_MEMBERS);
        Py_ssize_t count = members == NULL ? -1 : PyObject_Size(members);
        Py_XDECREF(ring);
        Py_XDECREF(members);
        if (count != 1) {
            return count < 0 ? FAILED : UNUSUAL;
        }
    }
    return all_in(self, set, N_OWNED);
}

/* Tell whether a SET may be run at once and by itself: it is not too large, nor are there too many bytes under way. */
static Outcome
is_small(Usual *self, const Request *set)
{
    if (set->size_max - CONTENT_FLAG_BYTES > self->value_bytes_max) {
        return UNUSUAL;
    }
    int64_t size = set->count == 1 ? set->size - CONTENT_FLAG_BYTES : set->size;
    if (size < COUNTED_BYTES_MIN) {
        return DONE;
    }
    int64_t under_way = number_of(self, self->parts[BACKLOG], N_BYTES);
    if (under_way == -1 && PyErr_Occurred()) {
        return FAILED;
    }
    return under_way == 0 ? DONE : UNUSUAL;
}

static Outcome
are_distinct(Request *request)
{
    if (request->count == 1) {
        return DONE;
    }
    PyObject *keys = keys_of(request), *set = keys == NULL ? NULL : PySet_New(keys);
    if (set == NULL) {
        return FAILED;
    }
    Outcome outcome = PySet_GET_SIZE(set) == request->count ? DONE : UNUSUAL;
    Py_DECREF(set);
    return outcome;
}

/* Return what makes the contents records: version and expiry. */
static PyObject *
stamp_for(Usual *self, const Request *set)
{
    PyObject *ttl_ms = PyLong_FromLongLong(set->ttl_ms);
    if (ttl_ms == NULL) {
        return NULL;
    }
    PyObject *replica = self->parts[REPLICA];
    PyObject *expires_ms = PyObject_CallMethodOneArg(replica, self->names[N_EXPIRES_MS], ttl_ms);
    Py_DECREF(ttl_ms);
    if (expires_ms == NULL) {
        return NULL;
    }
    PyObject *stamp = PyObject_CallMethodOneArg(replica, self->names[N_STAMP], expires_ms);
    Py_DECREF(expires_ms);
    if (stamp != NULL && (!PyBytes_CheckExact(stamp) || PyBytes_GET_SIZE(stamp) != STAMP_BYTES)) {
        PyErr_SetString(PyExc_TypeError, "a stamp is 22 bytes");
        Py_CLEAR(stamp);
    }
    return stamp;
}

/* Make records of the contents. */
static PyObject *
stamped(PyObject *stamp, const Request *set)
{
    PyObject *records = PyList_New(set->count);
    for (uint32_t i = 0; records != NULL && i < set->count; i++) {
        const Slice *content = &set->contents[i];
        PyObject *record = PyBytes_FromStringAndSize(NULL, STAMP_BYTES + (Py_ssize_t)content->size);
        if (record == NULL) {
            Py_CLEAR(records);
            break;
        }
        memcpy(PyBytes_AS_STRING(record), PyBytes_AS_STRING(stamp), STAMP_BYTES);
        memcpy(PyBytes_AS_STRING(record) + STAMP_BYTES, content->data, content->size);
        PyList_SET_ITEM(records, i, record);
    }
    return records;
}

/* Announce what was stored, by the version in its stamp. */
static int
publish(Usual *self, Request *set, PyObject *stamp)
{
    PyObject *version = PyBytes_FromStringAndSize(PyBytes_AS_STRING(stamp), VERSION_BYTES);
    if (version == NULL) {
        return -1;
    }
    PyObject *done = PyObject_CallMethodObjArgs(self->parts[REPLICA], self->names[N_PUBLISH], self->one, version,
                                                keys_of(set), NULL);
    Py_DECREF(version);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static Outcome
store_records(Usual *self, PyObject *origin, Request *set, PyObject *stamp, PyObject *records)
{
    PyObject *keys = keys_of(set), *outcome = NULL;
    if (keys != NULL) {
        outcome = PyObject_CallMethodObjArgs(self->parts[REPLICA], self->names[N_TAKE_WRITE], keys, records, NULL);
    }
    if (outcome == NULL) {
        return FAILED;
    }
    PyObject *newer = PyTuple_Check(outcome) && PyTuple_GET_SIZE(outcome) == 2 ? PyTuple_GET_ITEM(outcome, 0) : NULL;
    if (newer == NULL || !PyList_CheckExact(newer)) {
        Py_DECREF(outcome);
        PyErr_SetString(PyExc_TypeError, "Replica.take_write must return two lists");
        return FAILED;
    }
    if (PyList_GET_SIZE(newer) > 0) { /* to be stamped once more */
        return go_on(self, origin, set, Py_BuildValue("ON", records, outcome));
    }
    Py_DECREF(outcome);
    return publish(self, set, stamp) || answer(self, origin, set, reply_frame(self, set, NULL)) ? FAILED : DONE;
}

static Outcome
serve_set(Usual *self, PyObject *origin, Request *set)
{
    Outcome outcome = is_owned_alone(self, set);
    if (outcome == DONE) {
        outcome = is_small(self, set);
    }
    if (outcome == DONE) {
        outcome = are_distinct(set);
    }
    if (outcome != DONE) {
        return outcome;
    }
    if (count_request(self, set)) {
        return FAILED;
    }
    PyObject *stamp = stamp_for(self, set);
    if (stamp == NULL) {
        return FAILED;
    }
    PyObject *records = stamped(stamp, set);
    outcome = records == NULL ? FAILED : store_records(self, origin, set, stamp, records);
    Py_DECREF(stamp);
    Py_XDECREF(records);
    return outcome;
}

/* -- the type -------------------------------------------------------------------------------------------------------- */

static Outcome
serve_frame(Usual *self, PyObject *origin, const uint8_t *data, size_t size, uint64_t *kind)
{
    Reader reader = {data, data + size};
    Request request = {0};
    Outcome outcome = read_request(&reader, self->boot, self->sets, &request);
    if (outcome == DONE) {
        outcome = admit(self, origin, &request);
    }
    if (outcome == DONE) {
        outcome = request.kind == GET ? serve_get(self, origin, &request) : serve_set(self, origin, &request);
    }
    *kind = request.kind;
    request_free(&request);
    return outcome;
}

Outcome
serve_at_once(PyObject *usual, PyObject *origin, const uint8_t *data, size_t size, PyObject **reply, uint64_t *kind)
{
    Usual *self = (Usual *)usual;
    *reply = NULL;
    self->reply = reply;
    Outcome outcome = serve_frame(self, origin, data, size, kind);
    self->reply = NULL;
    return outcome;
}

static PyObject *
usual_serve(Usual *self, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2 || self->parts[0] == NULL) {
        PyErr_SetString(PyExc_TypeError, "serve takes an origin and a frame");
        return NULL;
    }
    Outcome outcome;
    uint64_t kind;
    PyObject *frame = arguments[1];
    if (PyBytes_CheckExact(frame)) {
        outcome = serve_frame(self, arguments[0], (const uint8_t *)PyBytes_AS_STRING(frame), (size_t)PyBytes_GET_SIZE(frame), &kind);
    }
    else {
        Py_buffer buffer;
        if (PyObject_GetBuffer(frame, &buffer, PyBUF_SIMPLE) < 0) {
            return NULL;
        }
        outcome = serve_frame(self, arguments[0], buffer.buf, (size_t)buffer.len, &kind);
        PyBuffer_Release(&buffer);
    }
    if (outcome == FAILED) {
        return NULL;
    }
    return Py_NewRef(outcome == DONE ? Py_True : outcome == WENT_ON ? Py_None : Py_False);
}

static int
usual_traverse(Usual *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (int i = 0; i < PARTS; i++) {
        Py_VISIT(self->parts[i]);
    }
    return 0;
}

static int
usual_clear(Usual *self)
{
    for (int i = 0; i < PARTS; i++) {
        Py_CLEAR(self->parts[i]);
    }
    for (int i = 0; i < NAMES; i++) {
        Py_CLEAR(self->names[i]);
    }
    Py_CLEAR(self->one);
    return 0;
}

static void
usual_dealloc(Usual *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    usual_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
usual_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    Usual *self = (Usual *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    PyObject **p = self->parts;
    unsigned long long boot;
    long long reply_bytes_max, value_bytes_max, replicas;
    if (!PyArg_ParseTupleAndKeywords(
            arguments, named, "$OOOOOOOOOOOOOOOOKnLLpLp:UsualRequests", PART_NAMES, &p[ADMISSION],
            &p[ANSWERED], &p[BACKLOG], &p[BATCHES], &p[CLOCK], &p[COUNTERS], &p[GO_ON], &p[HOT],
            &p[INSTANT], &p[IS_TRUSTED], &p[OUTBOX], &p[PENDING], &p[READY], &p[REPLICA], &p[STORE], &p[VIEW], &boot,
            &self->pending_max, &reply_bytes_max, &value_bytes_max, &self->reads_one, &replicas, &self->sets)) {
        for (int i = 0; i < PARTS; i++) {
            p[i] = NULL; /* borrowed */
        }
        Py_DECREF(self);
        return NULL;
    }
    for (int i = 0; i < PARTS; i++) {
        Py_INCREF(p[i]);
    }
    if (!PyDict_CheckExact(p[ANSWERED]) || !PyList_CheckExact(p[BATCHES]) || PyList_GET_SIZE(p[BATCHES]) < 32) {
        PyErr_SetString(PyExc_TypeError, "answered must be a dict, and batches a list of 32 counts at least");
        Py_DECREF(self);
        return NULL;
    }
    self->boot = boot;
    self->reply_bytes_max = reply_bytes_max;
    self->value_bytes_max = value_bytes_max;
    self->replicas = replicas;
    PyObject *module = PyType_GetModule(type);
    self->store = module == NULL ? NULL : store_from(module, p[STORE]);
    if (self->store == NULL) { /* one in Python */
        PyErr_Clear();
    }
    self->one = PyLong_FromLong(1);
    int failed = self->one == NULL;
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

static PyMethodDef usual_methods[] = {
    {"serve", (PyCFunction)(void (*)(void))usual_serve, METH_FASTCALL,
     "Serve a frame that came from this origin, if it is usual. True: that was done; None: Python went on with it."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot usual_slots[] = {
    {Py_tp_doc, "The usual requests of clients, served from frame to reply."},
    {Py_tp_new, usual_new},
    {Py_tp_dealloc, usual_dealloc},
    {Py_tp_traverse, usual_traverse},
    {Py_tp_clear, usual_clear},
    {Py_tp_methods, usual_methods},
    {0, NULL},
};

PyType_Spec usual_spec = {
    .name = "meshcache._native._compiled.UsualRequests",
    .basicsize = sizeof(Usual),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = usual_slots,
};
