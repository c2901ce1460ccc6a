/* The node's usual requests, from frame to reply without a Python object for each of their fields.
 *
 * What is usual: a frame with one GET of a client that one holder may answer, and here is one; with one SET that all
 * owners must store, see writes.c; or with what another node asks this one to store, see replica.c. ``UsualRequests.serve``
 * does with such a frame what requests.py does with it, its specification, and in the same order; ``take`` does it with
 * what another node has answered to a SET. All else is left to Python, in one of two ways:
 *
 *   before anything has changed  they return False: the frame is for Python to decode, judge and answer;
 *   in the middle                a key was not held, say: it calls the method of Requests that goes on from there, with
 *                                what is done so far, and returns None.
 *
 * It keeps no state of the node. It looks at what the parts of the node hold at the moment, and calls their methods for
 * whatever changes more than a counter or an entry in a table (bookkeeping.c): so a part need not tell of its changes, and
 * none can be missed. What the parts are is said once, when it is made. A method may change anything that it likes, so nothing borrowed from a part outlives
 * a call: hence the references taken.
 *
 * The frame is hostile until it is read to its end. Reading it allocates no more than the keys and records in it take. */

#include "serve.h"

#include "usual.h"

#define MORE 7
#define MORE_BYTES 2 /* of [Code.MORE] */

#define SMALL_REPLY_BYTES (1 << 16)
#define PRESSED_BYTES_LEFT (32 << 20)

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
    Outcome outcome = is_ready(self);
    if (outcome == DONE) {
        outcome = has_room(self);
    }
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

Outcome
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

Outcome
is_settled(Usual *self)
{
    int empty = is_empty(self, self->parts[VIEW], N_FORMER);
    return empty < 0 ? FAILED : empty;
}

int
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

/* -- the clocks of other nodes --------------------------------------------------------------------------------------- */

Outcome
may_follow(Usual *self, uint64_t clock, int64_t wall_ms, bool *is_ahead)
{
    PyObject *latest = part_attribute(self, CLOCK, N_LATEST);
    uint64_t own = latest == NULL ? 0 : PyLong_AsUnsignedLongLong(latest);
    Py_XDECREF(latest);
    if (PyErr_Occurred()) {
        return FAILED;
    }
    *is_ahead = clock > own;
    return clock <= own || (int64_t)(clock >> 16) <= wall_ms + LEAD_MS_MAX ? DONE : UNUSUAL;
}

int
follow(Usual *self, uint64_t clock)
{
    PyObject *latest = PyLong_FromUnsignedLongLong(clock);
    int failed = latest == NULL ? -1 : set_attribute(&self->names[N_LATEST], self->parts[CLOCK], latest);
    Py_XDECREF(latest);
    return failed;
}

/* -- replying -------------------------------------------------------------------------------------------------------- */

int
take_head(Usual *self, uint64_t number, Head *head)
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
    head->number = number;
    head->view = part_attribute(self, VIEW, N_DIGEST);
    if (head->view != NULL && !PyBytes_Check(head->view)) {
        Py_CLEAR(head->view);
        PyErr_SetString(PyExc_TypeError, "the digest of a view must be bytes");
    }
    return head->view == NULL ? -1 : 0;
}

PyObject *
frame_with(const Head *head, uint64_t kind, uint32_t fields, size_t size, uint8_t **to)
{
    size_t view_bytes = (size_t)PyBytes_GET_SIZE(head->view);
    size += 3 + size_of_uint(head->clock) + size_of_uint(head->number) + size_of_bin(view_bytes);
    PyObject *frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (frame != NULL) {
        *to = write_array((uint8_t *)PyBytes_AS_STRING(frame), 2);
        *to = write_array(write_uint(*to, head->clock), 1 + fields);
        *to = write_uint(write_uint(*to, kind), head->number);
        *to = write_bin(*to, PyBytes_AS_STRING(head->view), view_bytes);
    }
    return frame;
}

/* Make a frame with one REPLY whose results are a list of bytes. */
static PyObject *
reply_frame(Usual *self, uint64_t number, PyObject *results)
{
    Head head;
    if (take_head(self, number, &head)) {
        return NULL;
    }
    Py_ssize_t count = PyList_GET_SIZE(results);
    size_t size = size_of_array((uint32_t)count);
    for (Py_ssize_t i = 0; i < count; i++) {
        size += size_of_bin((size_t)PyBytes_GET_SIZE(PyList_GET_ITEM(results, i)));
    }
    uint8_t *to;
    PyObject *frame = frame_with(&head, REPLY, 3, size, &to);
    Py_DECREF(head.view);
    to = frame == NULL ? NULL : write_array(to, (uint32_t)count);
    for (Py_ssize_t i = 0; frame != NULL && i < count; i++) {
        PyObject *record = PyList_GET_ITEM(results, i);
        to = write_bin(to, PyBytes_AS_STRING(record), (size_t)PyBytes_GET_SIZE(record));
    }
    return frame;
}

PyObject *
done_frame(Usual *self, uint64_t number)
{
    Head head;
    uint8_t *to;
    if (take_head(self, number, &head)) {
        return NULL;
    }
    PyObject *frame = frame_with(&head, REPLY, 3, 1, &to);
    Py_DECREF(head.view);
    if (frame != NULL) {
        write_nil(to);
    }
    return frame;
}

int
append_to(PyObject *lists, PyObject *key, PyObject *item)
{
    PyObject *list = PyDict_GetItemWithError(lists, key);
    if (list != NULL) {
        return PyList_Append(list, item);
    }
    list = PyErr_Occurred() ? NULL : PyList_New(1);
    if (list == NULL) {
        return -1;
    }
    PyList_SET_ITEM(list, 0, Py_NewRef(item));
    int failed = PyDict_SetItem(lists, key, list);
    Py_DECREF(list);
    return failed;
}

int
put(Usual *self, PyObject *origin, PyObject *frame)
{
    if (frame == NULL) {
        return -1;
    }
    if (self->reply != NULL && PyBytes_GET_SIZE(frame) <= SMALL_REPLY_BYTES) {
        *self->reply = frame;
        return 0;
    }
    PyObject *replies = part_attribute(self, OUTBOX, N_REPLIES);
    int failed = replies == NULL ? -1 : append_to(replies, origin, frame);
    Py_XDECREF(replies);
    Py_DECREF(frame);
    return failed;
}

int
answer(Usual *self, PyObject *origin, uint64_t kind, PyObject *frame)
{
    if (frame != NULL && count_in(self, self->parts[ANSWERED], kind == GET ? N_GET : N_SET)) {
        Py_CLEAR(frame);
    }
    return put(self, origin, frame);
}

/* Have Python go on with a GET whose keys were looked up (``records`` is stolen). */
static Outcome
go_on_with_get(Usual *self, PyObject *origin, Request *get, PyObject *records)
{
    PyObject *view = PyBytes_FromStringAndSize((const char *)get->view.data, (Py_ssize_t)get->view.size);
    PyObject *keys = keys_of(get), *done = NULL;
    if (view != NULL && keys != NULL && records != NULL) {
        unsigned long long number = get->number, boot = self->boot;
        long long deadline_ms = get->deadline_ms, r = get->r, w = get->w;
        done = PyObject_CallMethod(self->parts[GO_ON], "go_on_with_get", "O(KKLOLLOO)O", origin, number, boot,
                                   deadline_ms, view, r, w, Py_False, keys, records);
    }
    Py_XDECREF(view);
    Py_XDECREF(records);
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
        int failed = less == NULL ? -1 : set_attribute(&self->names[N_LEFT], hot, less);
        Py_XDECREF(less);
        return failed;
    }
    PyObject *keys = keys_of(get), *now = part_attribute(self, INSTANT, N_NOW), *done = NULL;
    if (keys != NULL && now != NULL) {
        done = PyObject_CallMethodObjArgs(hot, self->names[N_NOTE].text, keys, now, NULL);
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
    PyObject *records = PyObject_CallMethodObjArgs(self->parts[STORE], self->names[N_READ].text, keys, now_bytes, NULL);
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
        return go_on_with_get(self, origin, get, records);
    }
    if (outcome == DONE && answer(self, origin, GET, reply_frame(self, get->number, records))) {
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
    PyObject *frame = frame_with(head, REPLY, 3, size, &to);
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
    if (PyErr_Occurred() || take_head(self, get->number, &head)) {
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
    return outcome != DONE ? outcome : answer(self, origin, GET, frame) ? FAILED : DONE;
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

/* -- the type -------------------------------------------------------------------------------------------------------- */

static Outcome
serve_request(Usual *self, PyObject *origin, Request *request)
{
    if (request->kind == WRITE) {
        return serve_write(self, origin, request);
    }
    Outcome outcome = admit(self, origin, request);
    if (outcome == DONE) {
        outcome = request->kind == GET ? serve_get(self, origin, request) : serve_set(self, origin, request);
    }
    return outcome;
}

static Outcome
serve_frame(Usual *self, PyObject *origin, const uint8_t *data, size_t size, uint64_t *kind)
{
    Reader reader = {data, data + size};
    Request request = {0};
    Outcome outcome = read_request(&reader, self->boot, self->sets, &request);
    if (outcome == DONE) {
        outcome = serve_request(self, origin, &request);
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

Outcome
take_at_once(PyObject *usual, PyObject *address, const uint8_t *data, size_t size, PyObject **reply, PyObject **origin)
{
    Usual *self = (Usual *)usual;
    *reply = *origin = NULL;
    self->reply = reply;
    Outcome outcome = serve_write_reply(self, address, data, size, origin);
    self->reply = NULL;
    return outcome;
}

/* What is done with the bytes of a frame. */
typedef Outcome (*Serve)(Usual *self, PyObject *from, const uint8_t *data, size_t size);

static Outcome
serve_bytes(Usual *self, PyObject *origin, const uint8_t *data, size_t size)
{
    uint64_t kind;
    return serve_frame(self, origin, data, size, &kind);
}

static Outcome
take_bytes(Usual *self, PyObject *address, const uint8_t *data, size_t size)
{
    PyObject *origin = NULL;
    Outcome outcome = serve_write_reply(self, address, data, size, &origin);
    Py_XDECREF(origin);
    return outcome;
}

static PyObject *
with_bytes(Usual *self, PyObject *const *arguments, Py_ssize_t count, Serve serve)
{
    if (count != 2 || self->parts[0] == NULL) {
        PyErr_SetString(PyExc_TypeError, "it takes where a frame came from, and the frame");
        return NULL;
    }
    Py_buffer buffer;
    if (PyObject_GetBuffer(arguments[1], &buffer, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    Outcome outcome = serve(self, arguments[0], buffer.buf, (size_t)buffer.len);
    PyBuffer_Release(&buffer);
    if (outcome == FAILED) {
        return NULL;
    }
    return Py_NewRef(outcome == DONE ? Py_True : outcome == WENT_ON ? Py_None : Py_False);
}

static PyObject *
usual_serve(Usual *self, PyObject *const *arguments, Py_ssize_t count)
{
    return with_bytes(self, arguments, count, serve_bytes);
}

static PyObject *
usual_take(Usual *self, PyObject *const *arguments, Py_ssize_t count)
{
    return with_bytes(self, arguments, count, take_bytes);
}

static int
usual_traverse(Usual *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (int i = 0; i < PARTS; i++) {
        Py_VISIT(self->parts[i]);
    }
    for (int i = 0; i < NAMES; i++) {
        for (int j = 0; j < CLASSES_A_NAME; j++) {
            Py_VISIT(self->names[i].slots[j].class);
        }
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
        clear_name(&self->names[i]);
    }
    Py_CLEAR(self->one);
    Py_CLEAR(self->own_id);
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

#define AS_ARGUMENT(name, text) text,
static char *ARGUMENTS[] = {
    PART_LIST(AS_ARGUMENT) "boot", "own_id", "pending_max", "reply_bytes_max", "value_bytes_max", "reads_one",
    "replicas", "write_quorum", "slow_s", "sets", NULL
};
static const char *const NAME_TEXTS[NAMES] = { NAME_LIST(AS_ARGUMENT) };

/* Take the arguments that are no parts; the parts are borrowed. */
static int
take_arguments(Usual *self, PyObject *arguments, PyObject *named)
{
    PyObject **p = self->parts;
    unsigned long long boot;
    long long reply_bytes_max, value_bytes_max, replicas, write_quorum;
    _Static_assert(PARTS == 24, "one O in the format for each part");
    if (!PyArg_ParseTupleAndKeywords(
            arguments, named, "$OOOOOOOOOOOOOOOOOOOOOOOOKUnLLpLLdp:UsualRequests", ARGUMENTS, &p[0], &p[1], &p[2], &p[3],
            &p[4], &p[5], &p[6], &p[7], &p[8], &p[9], &p[10], &p[11], &p[12], &p[13], &p[14], &p[15], &p[16], &p[17],
            &p[18], &p[19], &p[20], &p[21], &p[22], &p[23], &boot, &self->own_id, &self->pending_max, &reply_bytes_max,
            &value_bytes_max, &self->reads_one, &replicas, &write_quorum, &self->slow_s, &self->sets)) {
        return -1;
    }
    self->boot = boot;
    self->reply_bytes_max = reply_bytes_max;
    self->value_bytes_max = value_bytes_max;
    self->replicas = replicas;
    self->write_quorum = write_quorum;
    return 0;
}

static int
take_names(Usual *self)
{
    for (int i = 0; i < NAMES; i++) {
        if (make_name(&self->names[i], NAME_TEXTS[i])) {
            return -1;
        }
    }
    self->one = PyLong_FromLong(1);
    return self->one == NULL ? -1 : 0;
}

static int
check_parts(Usual *self)
{
    PyObject **p = self->parts;
    if (!PyType_Check(p[EVENT]) || !PyType_IsSubtype((PyTypeObject *)p[EVENT], &PyTuple_Type) || !PyType_Check(p[WAITS])) {
        PyErr_SetString(PyExc_TypeError, "event and waits must be classes, event of tuples");
        return -1;
    }
    if (!PyDict_CheckExact(p[ANSWERED]) || !PyList_CheckExact(p[BATCHES]) || PyList_GET_SIZE(p[BATCHES]) < 32) {
        PyErr_SetString(PyExc_TypeError, "answered must be a dict, and batches a list of 32 counts at least");
        return -1;
    }
    return 0;
}

static PyObject *
usual_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    Usual *self = (Usual *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    if (take_arguments(self, arguments, named)) {
        memset(self->parts, 0, sizeof self->parts); /* borrowed */
        self->own_id = NULL;
        Py_DECREF(self);
        return NULL;
    }
    for (int i = 0; i < PARTS; i++) {
        Py_INCREF(self->parts[i]);
    }
    Py_INCREF(self->own_id);
    PyObject *module = PyType_GetModule(type);
    self->store = module == NULL ? NULL : store_from(module, self->parts[STORE]);
    if (self->store == NULL) { /* one in Python */
        PyErr_Clear();
    }
    if (check_parts(self) || take_names(self)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyMethodDef usual_methods[] = {
    {"serve", (PyCFunction)(void (*)(void))usual_serve, METH_FASTCALL,
     "Serve a frame that came from this origin, if it is usual. True: that was done; None: Python went on with it."},
    {"take", (PyCFunction)(void (*)(void))usual_take, METH_FASTCALL,
     "Take a frame with an answer that came from this address, if it is usual."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot usual_slots[] = {
    {Py_tp_doc, "The usual requests, served from frame to reply."},
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
