/* What another node asks this one to store, of a SET that it coordinates: from frame to answer.
 *
 * replica_requests.py and claims.py are the specification. Usual is what comes by the ring that is known here, has no flags
 * for nodes, and no time from the future. Where the store is native and nobody is to be told, the records go from the
 * frame into the store without an object for any of them. Nothing has changed until it is known that all is usual. */

#include "usual.h"

/* Tell whether a connection is a node's, where it needs a key to be one. */
static Outcome
is_from_node(Usual *self, PyObject *origin)
{
    if (self->parts[IS_NODE] == Py_None) {
        return DONE;
    }
    PyObject *told = PyObject_CallOneArg(self->parts[IS_NODE], origin);
    int truth = told == NULL ? -1 : PyObject_IsTrue(told);
    Py_XDECREF(told);
    return truth < 0 ? FAILED : truth;
}

/* Tell whether the asking node works with this node's ring. */
static Outcome
is_same_view(Usual *self, const Request *write)
{
    PyObject *digest = part_attribute(self, VIEW, N_DIGEST);
    if (digest == NULL) {
        return FAILED;
    }
    Outcome outcome = UNUSUAL;
    if (PyBytes_CheckExact(digest) && (size_t)PyBytes_GET_SIZE(digest) == write->view.size) {
        outcome = memcmp(PyBytes_AS_STRING(digest), write->view.data, write->view.size) == 0;
    }
    Py_DECREF(digest);
    return outcome;
}

/* Tell whether a write is to be stored as it is, and changes nothing of the node before; ``is_ahead``: see may_follow. */
static Outcome
is_usual_write(Usual *self, PyObject *origin, const Request *write, int64_t wall_ms, bool *is_ahead)
{
    if (write->deadline_ms < wall_ms) {
        return UNUSUAL;
    }
    for (uint32_t i = 0; i < write->count; i++) { /* as claims.py has it */
        if (big_endian_48((const char *)write->contents[i].data) > wall_ms + LEAD_MS_MAX) {
            return UNUSUAL;
        }
    }
    Outcome outcome = is_same_view(self, write);
    if (outcome == DONE) {
        outcome = is_from_node(self, origin);
    }
    return outcome == DONE ? may_follow(self, write->clock, wall_ms, is_ahead) : outcome;
}

PyObject *
take_write(Usual *self, PyObject *keys, PyObject *records)
{
    PyObject *stored = NULL;
    if (keys != NULL && records != NULL) {
        stored = PyObject_CallMethodObjArgs(self->parts[REPLICA], self->names[N_TAKE_WRITE].text, keys, records, NULL);
    }
    if (stored != NULL && !(PyTuple_Check(stored) && PyTuple_GET_SIZE(stored) == 2 &&
                            PyList_CheckExact(PyTuple_GET_ITEM(stored, 0)) &&
                            PyList_CheckExact(PyTuple_GET_ITEM(stored, 1)))) {
        Py_CLEAR(stored);
        PyErr_SetString(PyExc_TypeError, "Replica.take_write must return two lists");
    }
    return stored;
}

Outcome
is_only_to_be_stored(Usual *self)
{
    PyObject *memory = self->store == NULL ? NULL : part_attribute(self, REPLICA, N_MEMORY);
    if (memory != Py_None) {
        Py_XDECREF(memory);
        return PyErr_Occurred() ? FAILED : UNUSUAL;
    }
    Py_DECREF(memory);
    int nobody_watches = is_empty(self, self->parts[REPLICA], N_WATCHED);
    PyObject *floors = nobody_watches > 0 ? part_attribute(self, REPLICA, N_FLOORS) : NULL;
    int nothing_dropped = floors == NULL ? nobody_watches : is_empty(self, floors, N_GREATEST); /* as their truth has it */
    Py_XDECREF(floors);
    return nothing_dropped < 0 || PyErr_Occurred() ? FAILED : nothing_dropped;
}

/* Merge one record; ``newer`` and ``live`` get what Store.merge returns of it, under the number ``place``. */
static int
merge_one(struct store *store, const struct key *key, const struct record *record, int64_t now_ms, uint32_t place,
          PyObject *newer, PyObject *live)
{
    char held[VERSION_BYTES];
    int merged = store_merge(store, key, record, now_ms, held);
    PyObject *list = merged == MERGED_NOT_NEWER_HELD ? newer : live, *item = NULL;
    if (merged == MERGED_NOT_NEWER_HELD) {
        item = Py_BuildValue("[Iy#]", place, held, (Py_ssize_t)VERSION_BYTES);
    }
    else if (merged == MERGED_OVER_LIVE) {
        item = PyLong_FromUnsignedLong(place);
    }
    int failed = merged < 0 || (item != NULL && PyList_Append(list, item));
    Py_XDECREF(item);
    return failed || PyErr_Occurred() ? -1 : 0;
}

PyObject *
merge_here(struct store *store, const Pair *pairs, uint32_t count, int64_t now_ms)
{
    struct key keys[KEYS_AT_ONCE];
    PyObject *newer = PyList_New(0), *live = PyList_New(0), *stored = NULL;
    int failed = newer == NULL || live == NULL;
    store_begin(store, now_ms);
    for (uint32_t start = 0; start < count && !failed; start += KEYS_AT_ONCE) {
        uint32_t some = Py_MIN(count - start, KEYS_AT_ONCE);
        for (uint32_t i = 0; i < some; i++) {
            const Slice *key = pairs[start + i].key;
            keys[i] = store_key(store, (const char *)key->data, (Py_ssize_t)key->size);
        }
        store_fetch(store, keys, some);
        for (uint32_t i = 0; i < some && !failed; i++) {
            failed = merge_one(store, &keys[i], &pairs[start + i].record, now_ms, start + i, newer, live);
        }
    }
    if (!failed) {
        stored = PyTuple_Pack(2, newer, live);
    }
    Py_XDECREF(newer);
    Py_XDECREF(live);
    return stored;
}

/* Tell whether a record is so large that the store wants it as an object. */
static bool
has_large(const Request *write)
{
    for (uint32_t i = 0; i < write->count; i++) {
        if (write->contents[i].size >= LARGE_BYTES) {
            return true;
        }
    }
    return false;
}

/* Store what was sent: return what Replica.take_write does. */
static PyObject *
store_write(Usual *self, Request *write, int64_t wall_ms)
{
    Outcome outcome = has_large(write) ? UNUSUAL : is_only_to_be_stored(self);
    if (outcome == UNUSUAL) {
        PyObject *keys = keys_of(write), *records = list_of(write->contents, write->count);
        PyObject *stored = take_write(self, keys, records);
        Py_XDECREF(records);
        return stored;
    }
    if (outcome == FAILED) {
        return NULL;
    }
    Pair pairs[WRITE_KEYS_MAX];
    for (uint32_t i = 0; i < write->count; i++) {
        const Slice *record = &write->contents[i];
        pairs[i] = (Pair){&write->keys[i], {(const char *)record->data, (Py_ssize_t)record->size, NULL}};
    }
    return merge_here(self->store, pairs, write->count, wall_ms);
}

static Slice
slice_of(PyObject *bytes)
{
    return (Slice){(const uint8_t *)PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes)};
}

/* Read what is not stored because something newer is held: pairs of a position and a version. */
static int
read_pair(PyObject *pair, int64_t *place, Slice *version)
{
    PyObject *bytes = PyList_CheckExact(pair) && PyList_GET_SIZE(pair) == 2 ? PyList_GET_ITEM(pair, 1) : NULL;
    if (bytes == NULL || !PyBytes_CheckExact(bytes)) {
        PyErr_SetString(PyExc_TypeError, "what is newer must be pairs of a position and a version");
        return -1;
    }
    *place = PyLong_AsLongLong(PyList_GET_ITEM(pair, 0));
    *version = slice_of(bytes);
    return PyErr_Occurred() ? -1 : 0;
}

/* Say how many bytes the two lists take that a replica answers; -1 with an exception. */
static int64_t
size_of_stored(PyObject *newer, PyObject *live)
{
    size_t size = size_of_array((uint32_t)PyList_GET_SIZE(newer)) + size_of_array((uint32_t)PyList_GET_SIZE(live));
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(newer); i++) {
        int64_t place;
        Slice version;
        if (read_pair(PyList_GET_ITEM(newer, i), &place, &version)) {
            return -1;
        }
        size += size_of_array(2) + size_of_int(place) + size_of_bin(version.size);
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(live); i++) {
        int64_t place = PyLong_AsLongLong(PyList_GET_ITEM(live, i));
        if (place == -1 && PyErr_Occurred()) {
            return -1;
        }
        size += size_of_int(place);
    }
    return (int64_t)size;
}

/* Make the frame that says what came of a write. */
static PyObject *
write_reply_frame(Usual *self, const Request *write, PyObject *newer, PyObject *live)
{
    Head head;
    int64_t size = size_of_stored(newer, live);
    if (size < 0 || take_head(self, write->number, &head)) {
        return NULL;
    }
    uint8_t *to;
    PyObject *frame = frame_with(&head, WRITE_REPLY, 4, (size_t)size, &to);
    Py_DECREF(head.view);
    if (frame == NULL) {
        return NULL;
    }
    to = write_array(to, (uint32_t)PyList_GET_SIZE(newer));
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(newer); i++) {
        int64_t place = 0;
        Slice version = {0};
        read_pair(PyList_GET_ITEM(newer, i), &place, &version); /* was checked */
        to = write_bin(write_int(write_array(to, 2), place), version.data, version.size);
    }
    to = write_array(to, (uint32_t)PyList_GET_SIZE(live));
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(live); i++) {
        to = write_int(to, PyLong_AsLongLong(PyList_GET_ITEM(live, i)));
    }
    return frame;
}

Outcome
serve_write(Usual *self, PyObject *origin, Request *write)
{
    int64_t wall_ms = number_of(self, self->parts[INSTANT], N_WALL_MS);
    if (wall_ms == -1 && PyErr_Occurred()) {
        return FAILED;
    }
    bool is_ahead = false;
    Outcome outcome = is_usual_write(self, origin, write, wall_ms, &is_ahead);
    if (outcome != DONE) {
        return outcome;
    }
    if (is_ahead && follow(self, write->clock)) {
        return FAILED;
    }
    PyObject *stored = store_write(self, write, wall_ms);
    if (stored == NULL) {
        return FAILED;
    }
    PyObject *frame = write_reply_frame(self, write, PyTuple_GET_ITEM(stored, 0), PyTuple_GET_ITEM(stored, 1));
    Py_DECREF(stored);
    return put(self, origin, frame) ? FAILED : DONE;
}
