/* The store as Python sees it: ``Entries``, on which meshcache/core/storage/native.py builds the twin of Store. Methods
 * check what they are given, and leave the rest to store.c. */

#include "store_object.h"

#include <structmember.h>

static PyObject *
refuse(PyObject *kind, const char *text)
{
    PyErr_SetString(kind, text);
    return NULL;
}

static int
take_key(const struct store *store, PyObject *object, struct key *key)
{
    if (!PyBytes_CheckExact(object) || PyBytes_GET_SIZE(object) > KEY_BYTES_MAX) {
        PyErr_Format(PyExc_TypeError, "a key must be bytes, %d at most", KEY_BYTES_MAX);
        return -1;
    }
    *key = store_key(store, PyBytes_AS_STRING(object), PyBytes_GET_SIZE(object));
    return 0;
}

static int
take_record(PyObject *object, struct record *record)
{
    if (!PyBytes_CheckExact(object) || PyBytes_GET_SIZE(object) < HEADER_BYTES ||
        PyBytes_GET_SIZE(object) >= UINT32_MAX) {
        PyErr_Format(PyExc_TypeError, "a record must be bytes, %d at least and less than 4 GiB", HEADER_BYTES);
        return -1;
    }
    *record = (struct record){PyBytes_AS_STRING(object), PyBytes_GET_SIZE(object), object};
    return 0;
}

/* Take milliseconds; -1 with an exception: it is none that a record could have. */
static int64_t
take_ms(PyObject *object)
{
    int64_t ms = PyLong_AsLongLong(object);
    if ((ms < 0 || ms > NEVER_MS * 2) && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_ValueError, "milliseconds must be from 0 to 2**49");
    }
    return PyErr_Occurred() ? -1 : ms;
}

static int64_t
take_slot(const struct store *store, PyObject *object)
{
    int64_t slot = PyLong_AsLongLong(object);
    if ((slot < 0 || slot >= store->slots) && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_IndexError, "there is no such slot");
    }
    return PyErr_Occurred() ? -1 : slot;
}

static PyObject *
bytes_of(struct record record)
{
    return record.owner != NULL ? Py_NewRef(record.owner) : PyBytes_FromStringAndSize(record.bytes, record.length);
}

static int
arguments_are(Py_ssize_t given, Py_ssize_t wanted)
{
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "it takes %zd arguments, not %zd", wanted, given);
    }
    return given == wanted;
}

/* Reading */

/* Take the keys from one on, KEYS_AT_ONCE at most, and fetch what they lead to; return their number. */
static Py_ssize_t
take_keys(const struct store *store, PyObject *list, Py_ssize_t from, struct key *keys)
{
    Py_ssize_t count = Py_MIN(PyList_GET_SIZE(list) - from, KEYS_AT_ONCE);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (take_key(store, PyList_GET_ITEM(list, from + i), &keys[i]) < 0) {
            return -1;
        }
    }
    if (count > 1) {
        store_fetch(store, keys, count);
    }
    return count;
}

/* Put the record of each key into ``found`` and its index into ``indices``; what has expired is None. */
static int
look_up(struct store *store, PyObject *list, int64_t now_ms, PyObject *found, uint32_t *indices)
{
    struct key keys[KEYS_AT_ONCE];
    Py_ssize_t count;
    for (Py_ssize_t from = 0; from < PyList_GET_SIZE(found); from += count) {
        count = take_keys(store, list, from, keys);
        for (Py_ssize_t i = 0; i < count; i++) {
            uint32_t index = indices[from + i] = store_find(store, &keys[i]);
            struct record record = index == 0 ? (struct record){0} : store_record(store, index);
            int is_there = index != 0 && expiry_of(record.bytes) > now_ms;
            PyObject *object = is_there ? bytes_of(record) : Py_NewRef(Py_None);
            if (object == NULL) {
                return -1;
            }
            PyList_SET_ITEM(found, from + i, object);
        }
        if (count < 0) {
            return -1;
        }
    }
    return 0;
}

/* Count hits and misses, and free what has expired; an entry may have been found several times. */
static int
note(struct store *store, const uint32_t *indices, Py_ssize_t count, int64_t now_ms)
{
    int64_t hits = store->counts.hits;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (indices[i] != 0 && is_live(store_record(store, indices[i]).bytes, now_ms)) {
            store_note_hit(store, indices[i]);
        }
    }
    store->counts.misses += count - (store->counts.hits - hits);
    for (Py_ssize_t i = 0; i < count; i++) {
        uint32_t index = indices[i];
        if (index != 0 && store_entry(store, index)->block != NULL &&
            expiry_of(store_record(store, index).bytes) <= now_ms && store_free_expired(store, index, now_ms) < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
entries_read(struct store *store, PyObject *const *arguments, Py_ssize_t given)
{
    if (!arguments_are(given, 2)) {
        return NULL;
    }
    PyObject *keys = arguments[0], *now = arguments[1];
    if (!PyList_CheckExact(keys) || !PyBytes_CheckExact(now) || PyBytes_GET_SIZE(now) != 6) {
        return refuse(PyExc_TypeError, "it takes a list of keys, and the time in six bytes");
    }
    int64_t now_ms = big_endian_48(PyBytes_AS_STRING(now));
    PyObject *found = PyList_New(PyList_GET_SIZE(keys));
    if (found == NULL) {
        return NULL;
    }
    /* Whoever collects garbage while the list is made might change the other. */
    Py_ssize_t count = PyList_GET_SIZE(found);
    if (count != PyList_GET_SIZE(keys)) {
        Py_DECREF(found);
        return refuse(PyExc_RuntimeError, "the list of keys has changed meanwhile");
    }
    uint32_t few[256], *indices = few;
    if (count > 256 && (indices = PyMem_New(uint32_t, count)) == NULL) {
        Py_DECREF(found);
        return PyErr_NoMemory();
    }
    if (look_up(store, keys, now_ms, found, indices) < 0 || note(store, indices, count, now_ms) < 0) {
        Py_CLEAR(found);
    }
    if (indices != few) {
        PyMem_Free(indices);
    }
    return found;
}

static PyObject *
entries_peek(struct store *store, PyObject *object)
{
    struct key key;
    if (take_key(store, object, &key) < 0) {
        return NULL;
    }
    uint32_t index = store_find(store, &key);
    return index == 0 ? Py_NewRef(Py_None) : bytes_of(store_record(store, index));
}

static PyObject *
entries_slot_of(struct store *store, PyObject *object)
{
    struct key key;
    return take_key(store, object, &key) < 0 ? NULL : PyLong_FromUnsignedLong(key.slot);
}

static int
entries_contains(struct store *store, PyObject *object)
{
    struct key key;
    return take_key(store, object, &key) < 0 ? -1 : store_find(store, &key) != 0;
}

/* Return a slot's keys in the order in which they came, each followed by the first ``more`` bytes of its record. */
static PyObject *
list_slot(struct store *store, PyObject *object, Py_ssize_t more)
{
    int64_t slot = take_slot(store, object);
    PyObject *listed = slot < 0 ? NULL : PyList_New(store->tables[slot].count);
    if (listed == NULL) {
        return NULL;
    }
    const struct slot_table *table = &store->tables[slot];
    for (uint32_t i = 0, at = 0; i < table->used && at < PyList_GET_SIZE(listed); i++) {
        if (table->held[i].index == 0) {
            continue;
        }
        struct record key = store_key_of(store, table->held[i].index);
        PyObject *bytes = PyBytes_FromStringAndSize(NULL, key.length + more);
        if (bytes == NULL) {
            Py_DECREF(listed);
            return NULL;
        }
        memcpy(PyBytes_AS_STRING(bytes), key.bytes, (size_t)key.length);
        memcpy(PyBytes_AS_STRING(bytes) + key.length, store_record(store, table->held[i].index).bytes, (size_t)more);
        PyList_SET_ITEM(listed, at++, bytes);
    }
    return listed;
}

static PyObject *
entries_keys_of_slot(struct store *store, PyObject *slot)
{
    return list_slot(store, slot, 0);
}

static PyObject *
entries_versioned_keys(struct store *store, PyObject *slot)
{
    return list_slot(store, slot, VERSION_BYTES);
}

static PyObject *
entries_count_of_slot(struct store *store, PyObject *object)
{
    int64_t slot = take_slot(store, object);
    return slot < 0 ? NULL : PyLong_FromUnsignedLong(store->tables[slot].count);
}

static PyObject *
entries_is_changed(struct store *store, PyObject *object)
{
    int64_t slot = take_slot(store, object);
    return slot < 0 ? NULL : PyBool_FromLong(store->changed[slot]);
}

static PyObject *
entries_take_changed(struct store *store, PyObject *object)
{
    int64_t slot = take_slot(store, object);
    if (slot < 0) {
        return NULL;
    }
    int changed = store->changed[slot];
    store->changed[slot] = 0;
    return PyBool_FromLong(changed);
}

static PyObject *
entries_keys_of_ring(struct store *store, PyObject *object)
{
    long ring = PyLong_AsLong(object);
    if ((ring < 0 || ring >= RINGS) && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_IndexError, "there is no such ring");
    }
    PyObject *keys = PyErr_Occurred() ? NULL : PyList_New(0);
    if (keys == NULL) {
        return NULL;
    }
    uint32_t before = (uint32_t)ring;
    for (uint32_t index = store_entry(store, before)->after; index >= RINGS; index = store_entry(store, index)->after) {
        PyObject *key = bytes_of(store_key_of(store, index));
        int failed = key == NULL || PyList_Append(keys, key) < 0;
        Py_XDECREF(key);
        if (!failed && store_entry(store, index)->before != before) {
            PyErr_SetString(PyExc_RuntimeError, "the links of the store's entries contradict each other");
            failed = 1;
        }
        if (failed) {
            Py_DECREF(keys);
            return NULL;
        }
        before = index;
    }
    return keys;
}

/* Writing */

static int
append_newer(PyObject *newer, Py_ssize_t position, const char *version)
{
    PyObject *pair = Py_BuildValue("[ny#]", position, version, (Py_ssize_t)VERSION_BYTES);
    int failed = pair == NULL || PyList_Append(newer, pair) < 0;
    Py_XDECREF(pair);
    return failed ? -1 : 0;
}

static int
append_number(PyObject *list, Py_ssize_t number)
{
    PyObject *object = PyLong_FromSsize_t(number);
    int failed = object == NULL || PyList_Append(list, object) < 0;
    Py_XDECREF(object);
    return failed ? -1 : 0;
}

/* What a merge has come to so far. */
struct merging {
    PyObject *newer, *live;
    int64_t now_ms;
};

static int
merge_one(struct store *store, struct merging *merging, Py_ssize_t position, const struct key *key, PyObject *object)
{
    struct record record;
    char held[VERSION_BYTES];
    if (take_record(object, &record) < 0) {
        return -1;
    }
    int outcome = store_merge(store, key, &record, merging->now_ms, held);
    if (outcome == MERGED_NOT_NEWER_HELD) {
        return append_newer(merging->newer, position, held);
    }
    return outcome == MERGED_OVER_LIVE ? append_number(merging->live, position) : outcome < 0 ? -1 : 0;
}

/* Merge keys and records, in two lists that nobody else changes. */
static int
merge_all(struct store *store, PyObject *list, PyObject *records, struct merging *merging)
{
    struct key keys[KEYS_AT_ONCE];
    Py_ssize_t count;
    store_begin(store, merging->now_ms);
    for (Py_ssize_t from = 0; from < PyList_GET_SIZE(list); from += count) {
        count = take_keys(store, list, from, keys);
        for (Py_ssize_t i = 0; i < count; i++) {
            if (merge_one(store, merging, from + i, &keys[i], PyList_GET_ITEM(records, from + i)) < 0) {
                return -1;
            }
        }
        if (count < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
entries_merge(struct store *store, PyObject *const *arguments, Py_ssize_t given)
{
    if (!arguments_are(given, 3)) {
        return NULL;
    }
    struct merging merging = {NULL, NULL, take_ms(arguments[2])};
    if (merging.now_ms < 0) {
        return NULL;
    }
    /* Copies: tags call into Python, and somebody might change the lists meanwhile. */
    PyObject *keys = PySequence_List(arguments[0]), *records = keys ? PySequence_List(arguments[1]) : NULL;
    PyObject *answer = NULL;
    if (records != NULL && PyList_GET_SIZE(keys) != PyList_GET_SIZE(records)) {
        refuse(PyExc_ValueError, "it takes as many records as keys");
    } else if (records != NULL) {
        merging.newer = PyList_New(0);
        merging.live = PyList_New(0);
        if (merging.newer && merging.live && merge_all(store, keys, records, &merging) == 0) {
            answer = PyTuple_Pack(2, merging.newer, merging.live);
        }
    }
    Py_XDECREF(keys);
    Py_XDECREF(records);
    Py_XDECREF(merging.newer);
    Py_XDECREF(merging.live);
    return answer;
}

/* Dropping */

/* Remove a slot's entries: all of them, or those with a prefix and no greater version that are no tombstones. */
static int64_t
drop_from_slot(struct store *store, uint32_t slot, const Py_buffer *prefix, const Py_buffer *version)
{
    int64_t dropped = 0;
    /* A table is made anew by an insert only, and freed with its last entry. */
    for (uint32_t i = 0; i < store->tables[slot].used; i++) {
        uint32_t index = store->tables[slot].held[i].index;
        if (index == 0) {
            continue;
        }
        if (prefix != NULL) {
            struct record key = store_key_of(store, index), record = store_record(store, index);
            int order = memcmp(record.bytes, version->buf, (size_t)Py_MIN(VERSION_BYTES, version->len));
            if (key.length < prefix->len || memcmp(key.bytes, prefix->buf, (size_t)prefix->len) != 0 || order > 0 ||
                (order == 0 && version->len < VERSION_BYTES) || is_tombstone(record.bytes)) {
                continue;
            }
        }
        if (store_remove(store, index) < 0) {
            return -1;
        }
        dropped++;
    }
    return dropped;
}

static PyObject *
entries_drop_slot(struct store *store, PyObject *object)
{
    int64_t slot = take_slot(store, object);
    int64_t dropped = slot < 0 ? -1 : drop_from_slot(store, (uint32_t)slot, NULL, NULL);
    if (dropped < 0 || PyList_SetItem(store->floors, (Py_ssize_t)slot, PyBytes_FromStringAndSize(NULL, 0)) < 0) {
        return NULL;
    }
    return PyLong_FromLongLong(dropped);
}

static PyObject *
entries_sweep(struct store *store, PyObject *arguments)
{
    PyObject *object;
    Py_buffer prefix, version;
    if (!PyArg_ParseTuple(arguments, "Oy*y*", &object, &prefix, &version)) {
        return NULL;
    }
    int64_t slot = take_slot(store, object);
    int64_t dropped = slot < 0 ? -1 : drop_from_slot(store, (uint32_t)slot, &prefix, &version);
    PyBuffer_Release(&prefix);
    PyBuffer_Release(&version);
    return dropped < 0 ? NULL : PyLong_FromLongLong(dropped);
}

/* The greatest version with the clock value of this one. */
static void
past_revisions(char *version)
{
    memset(version + 8, 0xff, VERSION_BYTES - 8);
}

/* Replace the entries at these indices, until ``buried``, a dict of their keys, has ``limit`` of them. */
static int
bury_each(struct store *store, PyObject *indices, const Py_buffer *version, int64_t until_ms, int64_t now_ms,
          Py_ssize_t limit, PyObject *buried)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(indices) && PyDict_GET_SIZE(buried) < limit; i++) {
        uint32_t index = (uint32_t)PyLong_AsUnsignedLong(PyList_GET_ITEM(indices, i));
        if (PyErr_Occurred()) {
            return -1;
        }
        if (index < RINGS || index >= store->index_count || store_entry(store, index)->block == NULL) {
            PyErr_SetString(PyExc_IndexError, "there is no such entry");
            return -1;
        }
        const char *record = store_record(store, index).bytes;
        int order = memcmp(record, version->buf, (size_t)Py_MIN(VERSION_BYTES, version->len));
        if (order > 0 || (order == 0 && version->len <= VERSION_BYTES)) {
            continue;
        }
        char past[VERSION_BYTES];
        memcpy(past, record, sizeof past);
        past_revisions(past);
        PyObject *key = bytes_of(store_key_of(store, index));
        PyObject *was_live = expiry_of(record) > now_ms ? Py_True : Py_False;
        int failed = key == NULL || PyDict_SetItem(buried, key, was_live) < 0 ||
                     store_leave_trace(store, index, past, until_ms) < 0;
        Py_XDECREF(key);
        if (failed) {
            return -1;
        }
        store->changed[store_entry(store, index)->slot] = 1;
    }
    return 0;
}

static PyObject *
entries_bury_entries(struct store *store, PyObject *arguments)
{
    PyObject *bearers, *until, *now;
    Py_buffer version;
    Py_ssize_t limit;
    if (!PyArg_ParseTuple(arguments, "Oy*OOn", &bearers, &version, &until, &now, &limit)) {
        return NULL;
    }
    int64_t until_ms = take_ms(until), now_ms = until_ms < 0 ? -1 : take_ms(now);
    /* A copy: what is buried leaves the table of the tag. */
    PyObject *indices = now_ms < 0 ? NULL : PySequence_List(bearers);
    PyObject *buried = indices == NULL ? NULL : PyDict_New();
    if (buried != NULL) {
        store_begin(store, now_ms);
        if (bury_each(store, indices, &version, until_ms, now_ms, limit, buried) < 0) {
            Py_CLEAR(buried);
        }
    }
    Py_XDECREF(indices);
    PyBuffer_Release(&version);
    return buried;
}

static PyObject *
entries_clear(struct store *store, PyObject *Py_UNUSED(nothing))
{
    store_clear(store);
    PyDict_Clear(store->covers);
    PyObject *empty = PyBytes_FromStringAndSize(NULL, 0);
    for (Py_ssize_t slot = 0; empty != NULL && slot < PyList_GET_SIZE(store->floors); slot++) {
        PyList_SetItem(store->floors, slot, Py_NewRef(empty));
    }
    Py_XDECREF(empty);
    return PyObject_CallMethod(store->tags, "clear", NULL);
}

static PyObject *
entries_expire(struct store *store, PyObject *const *arguments, Py_ssize_t given)
{
    if (!arguments_are(given, 2)) {
        return NULL;
    }
    int64_t now_ms = take_ms(arguments[0]), budget = now_ms < 0 ? -1 : PyLong_AsLongLong(arguments[1]);
    int more = PyErr_Occurred() ? -1 : store_expire(store, now_ms, budget);
    return more < 0 ? NULL : PyBool_FromLong(more);
}

/* Counts */

static PyObject *
entries_counts(struct store *store, PyObject *Py_UNUSED(nothing))
{
    const struct store_counts *c = &store->counts;
    const struct queues *q = &store->queues;
    return Py_BuildValue("LLLLLLLLLLLLnLLLLL", c->entries, c->tombstones, c->bytes, c->tombstone_bytes, c->hits, c->misses,
                         c->evictions, c->expirations, c->tombstones_reaped, c->tombstones_dropped, c->refused,
                         store->calendar.bookings, PyDict_GET_SIZE(store->covers), q->small_entries, q->small_evictions,
                         q->promotions, q->ghost_hits, q->ghost_bytes);
}

static PyObject *
entries_sizes(struct store *store, PyObject *Py_UNUSED(nothing))
{
    int64_t held = 0;
    for (uint32_t slot = 0; slot < store->slots; slot++) {
        held += store->tables[slot].count;
    }
    return Py_BuildValue("LII", held, store->index_count, store->free_count);
}

/* The type */

/* Return a list of so many empty bytes. */
static PyObject *
list_of_empty(uint32_t count)
{
    PyObject *empty = PyBytes_FromStringAndSize(NULL, 0), *list = empty == NULL ? NULL : PyList_New(count);
    for (uint32_t i = 0; list != NULL && i < count; i++) {
        PyList_SET_ITEM(list, i, Py_NewRef(empty));
    }
    Py_XDECREF(empty);
    return list;
}

static int
fill_new(struct store *store, uint32_t slots)
{
    /* Python's own secret makes ours. */
    PyObject *text = PyUnicode_FromString("the slots of a store"), *other = PyUnicode_FromString("its keys");
    if (text != NULL && other != NULL) {
        store->secret = (struct secret){(uint64_t)PyObject_Hash(text), (uint64_t)PyObject_Hash(other)};
    }
    Py_XDECREF(text);
    Py_XDECREF(other);
    store->covers = PyDict_New();
    store->floors = list_of_empty(slots);
    store->digests = list_of_empty(slots);
    return PyErr_Occurred() ? -1 : store_init(store, slots);
}

static PyObject *
entries_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    long long slots, max_entries, max_bytes, tombstone_bytes_max, grace_ms;
    struct charges charges;
    int is_s3fifo;
    PyObject *charged_by, *tags;
    if (!PyArg_ParseTuple(arguments, "LLLLLpO!O", &slots, &max_entries, &max_bytes, &tombstone_bytes_max, &grace_ms,
                          &is_s3fifo, &PyTuple_Type, &charged_by, &tags) ||
        !PyArg_ParseTuple(charged_by, "nnnn", &charges.key_pad, &charges.key_mask, &charges.record_pad,
                          &charges.overhead)) {
        return NULL;
    }
    if (slots < 1 || slots > 1 << 24 || slots & (slots - 1)) {
        return refuse(PyExc_ValueError, "slots must be a power of two, up to 2**24");
    }
    struct store *store = (struct store *)type->tp_alloc(type, 0);
    if (store == NULL) {
        return NULL;
    }
    store->max_entries = max_entries;
    store->max_bytes = max_bytes;
    store->tombstone_bytes_max = tombstone_bytes_max;
    store->grace_ms = grace_ms;
    recency_init(store, is_s3fifo);
    store->charges = charges;
    store->charged_by = Py_NewRef(charged_by);
    store->tags = Py_NewRef(tags);
    if (fill_new(store, (uint32_t)slots) < 0) {
        Py_CLEAR(store);
    }
    return (PyObject *)store;
}

static void
entries_dealloc(struct store *store)
{
    PyTypeObject *type = Py_TYPE(store);
    PyObject_GC_UnTrack(store);
    store_free(store);
    Py_XDECREF(store->covers);
    Py_XDECREF(store->tags);
    Py_XDECREF(store->floors);
    Py_XDECREF(store->digests);
    Py_XDECREF(store->charged_by);
    type->tp_free(store);
    Py_DECREF(type);
}

/* There is nothing to clear: a circle through a store goes through the dict of the class in Python, too. */
static int
entries_traverse(struct store *store, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(store));
    Py_VISIT(store->covers);
    Py_VISIT(store->tags);
    Py_VISIT(store->floors);
    return 0;
}

#define METHOD(name, function, how, text) {name, (PyCFunction)(void (*)(void))function, how, text}

static PyMethodDef entries_methods[] = {
    METHOD("read", entries_read, METH_FASTCALL, "See Store.read."),
    METHOD("peek", entries_peek, METH_O, "See Store.peek."),
    METHOD("merge", entries_merge, METH_FASTCALL, "See Store.merge."),
    METHOD("expire", entries_expire, METH_FASTCALL, "See Store.expire."),
    METHOD("keys_of_slot", entries_keys_of_slot, METH_O, "See Store.keys_of_slot."),
    METHOD("slot_of", entries_slot_of, METH_O, "Return the slot of a key."),
    METHOD("versioned_keys", entries_versioned_keys, METH_O, "Return a slot's keys, each followed by its version."),
    METHOD("count_of_slot", entries_count_of_slot, METH_O, "Return how many keys a slot has."),
    METHOD("is_changed", entries_is_changed, METH_O, "Tell whether a slot has changed since take_changed."),
    METHOD("take_changed", entries_take_changed, METH_O, "Tell the same, and begin anew."),
    METHOD("keys_of_ring", entries_keys_of_ring, METH_O, "See Store.keys_of_ring."),
    METHOD("drop_slot", entries_drop_slot, METH_O, "See Store.drop_slot."),
    METHOD("sweep", entries_sweep, METH_VARARGS, "See Store.sweep."),
    METHOD("bury_entries", entries_bury_entries, METH_VARARGS, "See Store.bury; by the indices of the entries."),
    METHOD("clear", entries_clear, METH_NOARGS, "See Store.clear."),
    METHOD("counts", entries_counts, METH_NOARGS, "Return the fields of StoreStatistics, but for those on tags."),
    METHOD("sizes", entries_sizes, METH_NOARGS, "Return how many keys, indices, and free indices there are."),
    {NULL, NULL, 0, NULL},
};

#define MEMBER(name, type, field, flags) {name, type, offsetof(struct store, field), flags, NULL}

static PyMemberDef entries_members[] = {
    MEMBER("max_entries", T_LONGLONG, max_entries, 0),
    MEMBER("max_bytes", T_LONGLONG, max_bytes, 0),
    MEMBER("slots", T_UINT, slots, READONLY),
    MEMBER("tags", T_OBJECT_EX, tags, READONLY),
    MEMBER("floors", T_OBJECT_EX, floors, READONLY),
    MEMBER("digests", T_OBJECT_EX, digests, READONLY),
    MEMBER("charges", T_OBJECT_EX, charged_by, READONLY),
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot entries_slots[] = {
    {Py_tp_new, entries_new},
    {Py_tp_dealloc, entries_dealloc},
    {Py_tp_traverse, entries_traverse},
    {Py_tp_methods, entries_methods},
    {Py_tp_members, entries_members},
    {Py_sq_contains, entries_contains},
    {Py_tp_doc, "What a store holds, in memory of its own."},
    {0, NULL},
};

PyType_Spec entries_spec = {
    .name = "meshcache._native._compiled.Entries",
    .basicsize = sizeof(struct store),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = entries_slots,
};

struct store *
store_from(PyObject *module, PyObject *object)
{
    PyObject *type = PyObject_GetAttrString(module, "Entries");
    int is_store = type == NULL ? -1 : PyObject_IsInstance(object, type);
    Py_XDECREF(type);
    if (is_store == 0) {
        PyErr_SetString(PyExc_TypeError, "it must be a native store");
    }
    return is_store > 0 ? (struct store *)object : NULL;
}
