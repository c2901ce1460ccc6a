/* Entries, rings, counts, limits and expiry. See store.h for the layout, and store.py for what is done and why. */

#include "store.h"

#define CHUNK_ENTRIES 1024

#define BUCKET_MS 250
#define HORIZON_MS 600000
#define SETTLE_MS 10000

/* Blocks */

/* Return how much memory a block is given: what the allocator would round it up to, for it may be filled later. */
static size_t
block_room(size_t key_bytes, size_t record_bytes)
{
    size_t bytes = sizeof(struct block) + key_bytes + record_bytes;
    return bytes <= 512 ? (bytes + 15) & ~(size_t)15 : ((bytes + 8 + 15) & ~(size_t)15) - 8;
}

static struct block *
block_made(const struct key *key, const struct record *record)
{
    int is_large = record->owner != NULL && record->length >= LARGE_BYTES;
    size_t bytes = is_large ? sizeof(PyObject *) : (size_t)record->length;
    struct block *block = PyMem_Malloc(block_room((size_t)key->length, bytes));
    if (block == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    block->record_bytes = (uint32_t)record->length;
    block->key_bytes = (uint16_t)key->length;
    block->is_large = (uint16_t)is_large;
    memcpy(block->data, key->bytes, (size_t)key->length);
    if (is_large) {
        PyObject *owner = Py_NewRef(record->owner);
        memcpy(block->data + key->length, &owner, sizeof owner);
    } else {
        memcpy(block->data + key->length, record->bytes, (size_t)record->length);
    }
    return block;
}

static void
block_free(struct block *block)
{
    Py_XDECREF(owner_of(block));
    PyMem_Free(block);
}

struct record
store_record(const struct store *store, uint32_t index)
{
    const struct entry *entry = store_entry(store, index);
    return (struct record){record_at(entry), entry->block->record_bytes, owner_of(entry->block)};
}

struct record
store_key_of(const struct store *store, uint32_t index)
{
    const struct block *block = store_entry(store, index)->block;
    return (struct record){block->data, block->key_bytes, NULL};
}

/* Put another record in the place of an entry's; into the same memory, if it would be given as much anew. */
static int
replace_record(struct entry *entry, const struct record *record)
{
    struct block *block = entry->block;
    size_t key_bytes = block->key_bytes;
    int stays = !block->is_large && (record->owner == NULL || record->length < LARGE_BYTES);
    if (stays && block_room(key_bytes, (size_t)record->length) == block_room(key_bytes, block->record_bytes)) {
        memcpy(block->data + key_bytes, record->bytes, (size_t)record->length);
        block->record_bytes = (uint32_t)record->length;
        return 0;
    }
    struct key key = {.bytes = block->data, .length = (Py_ssize_t)key_bytes};
    struct block *fresh = block_made(&key, record);
    if (fresh == NULL) {
        return -1;
    }
    entry->block = fresh;
    block_free(block);
    return 0;
}

/* Keys and slots */

struct key
store_key(const struct store *store, const char *bytes, Py_ssize_t length)
{
    return (struct key){bytes, length, crc32_of(bytes, (size_t)length) & (store->slots - 1),
                        secret_hash(&store->secret, bytes, (size_t)length)};
}

#if defined(__GNUC__)
#define FETCH(address) __builtin_prefetch(address)
#else
#define FETCH(address) ((void)(address))
#endif

void
store_fetch(const struct store *store, const struct key *keys, Py_ssize_t count)
{
    /* Each step needs what the one before has fetched. It follows the first place of each key only: most are there. */
    uint32_t positions[KEYS_AT_ONCE], indices[KEYS_AT_ONCE];
    for (Py_ssize_t i = 0; i < count; i++) {
        FETCH(&store->tables[keys[i].slot]);
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        const struct slot_table *table = &store->tables[keys[i].slot];
        FETCH(table->places + (table->count ? table_first(table, keys[i].hash) : 0));
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        const struct slot_table *table = &store->tables[keys[i].slot];
        positions[i] = table->count ? table->places[table_first(table, keys[i].hash)] : TABLE_NONE;
        FETCH(table->held + (positions[i] < TABLE_DELETED ? positions[i] : 0));
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        const struct slot_table *table = &store->tables[keys[i].slot];
        indices[i] = positions[i] < TABLE_DELETED ? table->held[positions[i]].index : 0;
        FETCH(store_entry(store, indices[i]));
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        const struct entry *entry = store_entry(store, indices[i]);
        if (indices[i] != 0 && entry->block != NULL) {
            FETCH(entry->block);
            FETCH(entry->block->data + 64);
            FETCH(store_entry(store, entry->before));
            FETCH(store_entry(store, entry->after));
        }
    }
}

uint32_t
store_find(const struct store *store, const struct key *key)
{
    const struct slot_table *table = &store->tables[key->slot];
    if (table->count == 0) {
        return 0;
    }
    for (uint32_t place = table_first(table, key->hash);; place = table_next(table, place)) {
        uint32_t position = table->places[place];
        if (position == TABLE_NONE) {
            return 0;
        }
        if (position == TABLE_DELETED || table->held[position].hash != key->hash) {
            continue;
        }
        uint32_t index = table->held[position].index;
        const struct block *block = index == 0 ? NULL : store_entry(store, index)->block;
        if (block != NULL && block->key_bytes == key->length &&
            memcmp(block->data, key->bytes, (size_t)key->length) == 0) {
            return index;
        }
    }
}

/* Indices */

static uint32_t
new_index(struct store *store)
{
    uint32_t index = store->free_first;
    if (index != 0) {
        store->free_first = store_entry(store, index)->after;
        store->free_count--;
        return index;
    }
    index = store->index_count;
    if (index == UINT32_MAX) {
        PyErr_SetString(PyExc_MemoryError, "a store has no more than 2**32 entries");
        return 0;
    }
    if (index / CHUNK_ENTRIES == store->chunk_count) {
        /* The list of chunks grows by doubling: at each power of two it is full. */
        if ((store->chunk_count & (store->chunk_count - 1)) == 0) {
            size_t room = store->chunk_count == 0 ? 1 : (size_t)store->chunk_count * 2;
            struct entry **chunks = PyMem_RawRealloc(store->chunks, room * sizeof *chunks);
            if (chunks == NULL) {
                PyErr_NoMemory();
                return 0;
            }
            store->chunks = chunks;
        }
        struct entry *chunk = PyMem_RawMalloc(CHUNK_ENTRIES * sizeof *chunk);
        if (chunk == NULL) {
            PyErr_NoMemory();
            return 0;
        }
        store->chunks[store->chunk_count++] = chunk;
    }
    store->index_count++;
    *store_entry(store, index) = (struct entry){0};
    return index;
}

static void
give_back(struct store *store, uint32_t index)
{
    struct entry *entry = store_entry(store, index);
    entry->block = NULL;
    entry->after = store->free_first;
    store->free_first = index;
    store->free_count++;
}

/* Counts */

void
store_note_hit(struct store *store, uint32_t index)
{
    store->counts.hits++;
    recency_used(store, index);
}

/* Return how long the extras of a record say they are. */
static Py_ssize_t
extras_bytes(const char *record)
{
    return (unsigned char)record[HEADER_BYTES] << 8 | (unsigned char)record[HEADER_BYTES + 1];
}

/* Call a method of the tag index, and return how many bytes it says; the last argument is the record up to its value. */
static int64_t
ask_tags(const struct store *store, const char *method, const struct entry *entry, uint32_t index)
{
    const char *record = record_at(entry);
    Py_ssize_t length = entry->block->record_bytes;
    if (length >= HEADER_BYTES + 2) {
        length = Py_MIN(length, HEADER_BYTES + 2 + extras_bytes(record));
    }
    PyObject *charged = index == 0
        ? PyObject_CallMethod(store->tags, method, "y#", record, length)
        : PyObject_CallMethod(store->tags, method, "IIy#", entry->slot, index, record, length);
    if (charged == NULL) {
        return -1;
    }
    int64_t bytes = PyLong_AsLongLong(charged);
    Py_DECREF(charged);
    return bytes;
}

/* Add (sign 1) or subtract (-1) the present record of an entry. */
static int
count(struct store *store, uint32_t index, int sign)
{
    const struct entry *entry = store_entry(store, index);
    const char *record = record_at(entry);
    int64_t size = untagged_bytes(store, entry->block->key_bytes, entry->block->record_bytes);
    if (record[FLAGS_AT] & EXTRAS) {
        int64_t of_tags = ask_tags(store, sign > 0 ? "add" : "remove", entry, index);
        if (of_tags < 0) {
            return -1;
        }
        size += of_tags;
    }
    store->counts.bytes += sign * size;
    if (is_tombstone(record)) {
        store->counts.tombstones += sign;
        store->counts.tombstone_bytes += sign * size;
    } else {
        store->counts.entries += sign;
    }
    return 0;
}

static int
slices_equal(const struct record *a, const struct record *b, Py_ssize_t from, Py_ssize_t to)
{
    Py_ssize_t ours = Py_MIN(a->length, to) - from, theirs = Py_MIN(b->length, to) - from;
    return ours == theirs && (ours <= 0 || memcmp(a->bytes + from, b->bytes + from, (size_t)ours) == 0);
}

static int
same_extras(const struct record *record, const struct record *held)
{
    if (record->bytes[FLAGS_AT] != EXTRAS || held->bytes[FLAGS_AT] != EXTRAS || !slices_equal(record, held, 24, 26)) {
        return 0;
    }
    if (record->length < HEADER_BYTES + 2) {
        return 1;
    }
    return slices_equal(record, held, 26, 26 + extras_bytes(record->bytes));
}

/* Covers */

/* Find until when an older value of the key would live, if that is longer than the record; 0: it is not. */
static int
find_cover(const struct store *store, uint32_t index, int64_t *until_ms)
{
    if (PyDict_GET_SIZE(store->covers) == 0) {
        return 0;
    }
    PyObject *key = PyLong_FromUnsignedLong(index);
    if (key == NULL) {
        return -1;
    }
    PyObject *until = PyDict_GetItemWithError(store->covers, key);
    Py_DECREF(key);
    if (until == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    *until_ms = PyLong_AsLongLong(until);
    return 1;
}

static int
set_cover(struct store *store, uint32_t index, int64_t until_ms)
{
    PyObject *key = PyLong_FromUnsignedLong(index), *until = PyLong_FromLongLong(until_ms);
    int failed = key == NULL || until == NULL || PyDict_SetItem(store->covers, key, until) < 0;
    Py_XDECREF(key);
    Py_XDECREF(until);
    return failed ? -1 : 0;
}

static int
drop_cover(struct store *store, uint32_t index)
{
    int64_t until_ms;
    int found = find_cover(store, index, &until_ms);
    if (found <= 0) {
        return found;
    }
    PyObject *key = PyLong_FromUnsignedLong(index);
    int failed = key == NULL || PyDict_DelItem(store->covers, key) < 0;
    Py_XDECREF(key);
    return failed ? -1 : 0;
}

static int64_t
covered_until(const struct store *store, const char *record, const char *held)
{
    return Py_MIN(expiry_of(held), big_endian_48(record) + store->grace_ms);
}

/* Expiry */

static int
book(struct store *store, uint32_t index, int64_t expires_ms)
{
    struct entry *entry = store_entry(store, index);
    int64_t bucket = Py_MIN(expires_ms / BUCKET_MS, store->horizon);
    if (0 < entry->booked && entry->booked <= bucket) {
        return 0;
    }
    if (calendar_add(&store->calendar, bucket, index) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    entry->booked = bucket;
    return 0;
}

static void
tombstone_made(char *record, const char *version, int64_t until_ms)
{
    memcpy(record, version, VERSION_BYTES);
    until_ms = Py_MIN(until_ms, NEVER_MS);
    for (int i = 0; i < 6; i++) {
        record[EXPIRY_AT + i] = (char)(until_ms >> (40 - 8 * i));
    }
    record[FLAGS_AT] = TOMBSTONE;
    record[FLAGS_AT + 1] = 0;
}

int
store_leave_trace(struct store *store, uint32_t index, const char *version, int64_t until_ms)
{
    char bytes[HEADER_BYTES];
    tombstone_made(bytes, version, until_ms);
    struct record trace = {bytes, HEADER_BYTES, NULL};
    struct entry *entry = store_entry(store, index);
    if (count(store, index, -1) < 0) {
        return -1;
    }
    recency_leave(store, index, entry->block->record_bytes);
    if (replace_record(entry, &trace) < 0 || count(store, index, 1) < 0 || drop_cover(store, index) < 0) {
        return -1;
    }
    ring_unlink(store, index);
    ring_append(store, index, RING_DEAD);
    return book(store, index, expiry_of(bytes));
}

int
store_free_expired(struct store *store, uint32_t index, int64_t now_ms)
{
    const char *record = record_at(store_entry(store, index));
    if (is_tombstone(record)) {
        store->counts.tombstones_reaped++;
        return store_remove(store, index);
    }
    store->counts.expirations++;
    int64_t written_ms = big_endian_48(record), cover = 0;
    int is_covered = find_cover(store, index, &cover);
    if (is_covered < 0) {
        return -1;
    }
    if (is_covered || written_ms > Py_MAX(0, now_ms - SETTLE_MS)) {
        int64_t until_ms = Py_MAX(written_ms + SETTLE_MS, cover);
        if (until_ms > now_ms) {
            char version[VERSION_BYTES];
            memcpy(version, record, sizeof version);
            return store_leave_trace(store, index, version, until_ms);
        }
    }
    return store_remove(store, index);
}

/* Fetch an entry that will be looked at soon, and what will be touched of one that comes before it. */
static void
fetch_ahead(const struct store *store)
{
    const struct bookings *top = store->calendar.buckets[0].top;
    if (top->count > 8) {
        FETCH(store_entry(store, top->indices[top->count - 9]));
        const struct entry *entry = store_entry(store, top->indices[top->count - 5]);
        FETCH(entry->block);
        FETCH(store_entry(store, entry->before));
        FETCH(store_entry(store, entry->after));
    }
}

int
store_expire(struct store *store, int64_t now_ms, int64_t budget)
{
    struct calendar *calendar = &store->calendar;
    store_begin(store, now_ms);
    while (calendar->count > 0 && (calendar->buckets[0].number + 1) * BUCKET_MS <= now_ms) {
        int64_t number = calendar->buckets[0].number;
        while (calendar->buckets[0].top != NULL) {
            if (budget <= 0) {
                return 1;
            }
            budget--;
            fetch_ahead(store);
            uint32_t index = calendar_take(calendar);
            struct entry *entry = store_entry(store, index);
            if (entry->booked != number) {
                continue;
            }
            entry->booked = 0;
            if (entry->block == NULL) {
                continue;
            }
            int64_t expires_ms = expiry_of(record_at(entry));
            int failed = expires_ms <= now_ms      ? store_free_expired(store, index, now_ms)
                         : expires_ms != NEVER_MS ? book(store, index, expires_ms)
                                                  : 0;
            if (failed) {
                return -1;
            }
        }
        calendar_turn(calendar);
    }
    return 0;
}

/* Limits */

/* Raise the eviction floor of an entry's slot, and remove it. */
static int
forget(struct store *store, uint32_t index)
{
    if (index < RINGS) {
        PyErr_SetString(PyExc_RuntimeError, "the store is over its limits, and has nothing to forget");
        return -1;
    }
    const struct entry *entry = store_entry(store, index);
    const char *version = record_at(entry);
    PyObject *floor = PyList_GetItem(store->floors, entry->slot);
    if (floor == NULL || !PyBytes_Check(floor)) {
        PyErr_SetString(PyExc_RuntimeError, "the floors of a store are bytes, one for each slot");
        return -1;
    }
    Py_ssize_t length = PyBytes_GET_SIZE(floor);
    int order = memcmp(version, PyBytes_AS_STRING(floor), (size_t)Py_MIN(length, VERSION_BYTES));
    if (order > 0 || (order == 0 && length < VERSION_BYTES)) {
        PyObject *raised = PyBytes_FromStringAndSize(version, VERSION_BYTES);
        if (raised == NULL || PyList_SetItem(store->floors, entry->slot, raised) < 0) {
            return -1;
        }
    }
    return store_remove(store, index);
}

static int
exceeds_the_store(const struct store *store, uint32_t index)
{
    const struct entry *entry = store_entry(store, index);
    int64_t size = untagged_bytes(store, entry->block->key_bytes, entry->block->record_bytes);
    if (record_at(entry)[FLAGS_AT] & EXTRAS) {
        int64_t of_tags = ask_tags(store, "charge", entry, 0);
        if (of_tags < 0) {
            return -1;
        }
        size += of_tags;
    }
    return size > store->max_bytes - store->queues.ghost_bytes;
}

/* Have one live entry go, by the policy. */
static int
evict(struct store *store, uint32_t written)
{
    int64_t victim = recency_victim(store, written);
    if (victim < 0) {
        return -1;
    }
    uint32_t index = (uint32_t)victim;
    if (store->queues.is_on && index >= RINGS && expiry_of(record_at(store_entry(store, index))) <= store->now_ms) {
        return store_free_expired(store, index, store->now_ms);
    }
    store->counts.evictions++;
    return forget(store, index);
}

static int
make_room(struct store *store, uint32_t written)
{
    struct store_counts *counts = &store->counts;
    if (counts->bytes > store->max_bytes) {
        int exceeds = exceeds_the_store(store, written);
        if (exceeds != 0) {
            counts->refused += exceeds > 0;
            return exceeds < 0 ? -1 : store_remove(store, written);
        }
    }
    for (;;) {
        int failed;
        if (counts->entries > store->max_entries) {
            failed = evict(store, written);
        } else if (counts->bytes <= store->max_bytes) {
            return 0;
        } else if (counts->tombstone_bytes > store->tombstone_bytes_max || counts->entries == 0) {
            counts->tombstones_dropped++;
            failed = forget(store, store_entry(store, RING_DEAD)->after);
        } else {
            failed = evict(store, written);
        }
        if (failed) {
            return -1;
        }
    }
}

/* Writing */

static int
insert(struct store *store, const struct key *key, const struct record *record)
{
    struct slot_table *table = &store->tables[key->slot];
    if (table_reserve(table) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    struct block *block = block_made(key, record);
    uint32_t index = block == NULL ? 0 : new_index(store);
    if (index == 0) {
        if (block != NULL) {
            block_free(block);
        }
        return -1;
    }
    struct entry *entry = store_entry(store, index);
    entry->block = block;
    entry->slot = key->slot;
    entry->hash = key->hash;
    table_add(table, key->hash, index);
    recency_enter(store, index);
    if (count(store, index, 1) < 0) {
        return -1;
    }
    int64_t expires_ms = expiry_of(record->bytes);
    if (expires_ms != NEVER_MS && book(store, index, expires_ms) < 0) {
        return -1;
    }
    return make_room(store, index);
}

int
store_remove(struct store *store, uint32_t index)
{
    struct entry *entry = store_entry(store, index);
    if (count(store, index, -1) < 0 || drop_cover(store, index) < 0) {
        return -1;
    }
    recency_leave(store, index, entry->block->record_bytes);
    ring_unlink(store, index);
    table_remove(&store->tables[entry->slot], entry->hash, index);
    store->changed[entry->slot] = 1;
    block_free(entry->block);
    give_back(store, index);
    return 0;
}

/* Drop the record that is replaced by one that has already expired, and leave a trace of the latter. */
static int
merge_expired(struct store *store, const struct key *key, const char *record, uint32_t index, int64_t now_ms)
{
    int64_t until_ms = big_endian_48(record) + SETTLE_MS;
    if (index != 0) {
        until_ms = Py_MAX(until_ms, covered_until(store, record, record_at(store_entry(store, index))));
        if (store_remove(store, index) < 0) {
            return -1;
        }
    }
    if (until_ms <= now_ms || is_tombstone(record)) {
        return 0;
    }
    char bytes[HEADER_BYTES];
    tombstone_made(bytes, record, until_ms);
    struct record trace = {bytes, HEADER_BYTES, NULL};
    return insert(store, key, &trace);
}

/* Put a newer record that has not expired in the place of the one that is held. */
static int
overwrite(struct store *store, uint32_t index, const struct record *record)
{
    struct entry *entry = store_entry(store, index);
    struct record held = store_record(store, index);
    int64_t held_expires_ms = expiry_of(held.bytes), expires_ms = expiry_of(record->bytes);
    int64_t cover = covered_until(store, record->bytes, held.bytes);
    int was_tombstone = is_tombstone(held.bytes);
    int recounted = (record->bytes[FLAGS_AT] || held.bytes[FLAGS_AT]) && !same_extras(record, &held);
    if (recounted && count(store, index, -1) < 0) {
        return -1;
    }
    if (replace_record(entry, record) < 0) {
        return -1;
    }
    if (recounted) {
        if (count(store, index, 1) < 0) {
            return -1;
        }
    } else {
        store->counts.bytes += untagged_bytes(store, entry->block->key_bytes, record->length) -
                               untagged_bytes(store, entry->block->key_bytes, held.length);
    }
    recency_replaced(store, index, held.length, was_tombstone);
    if (expires_ms < held_expires_ms) {
        if (book(store, index, expires_ms) < 0) {
            return -1;
        }
        if (!is_tombstone(record->bytes)) {
            int64_t before = 0;
            if (find_cover(store, index, &before) < 0 || set_cover(store, index, Py_MAX(before, cover)) < 0) {
                return -1;
            }
        }
    }
    return make_room(store, index);
}

void
store_begin(struct store *store, int64_t now_ms)
{
    store->now_ms = now_ms;
    store->horizon = (now_ms + HORIZON_MS) / BUCKET_MS;
}

int
store_merge(struct store *store, const struct key *key, const struct record *record, int64_t now_ms, char *held_version)
{
    static const char nothing[HEADER_BYTES] = {0};
    uint32_t index = store_find(store, key);
    const char *bytes = record->bytes;
    int is_over = expiry_of(bytes) <= now_ms;
    store->changed[key->slot] = 1;
    if (index == 0 && !is_over) {
        return insert(store, key, record) < 0 ? -1 : MERGED;
    }
    const char *held = index == 0 ? nothing : record_at(store_entry(store, index));
    int order = memcmp(held, bytes, VERSION_BYTES);
    if (order >= 0) {
        if (order > 0) {
            memcpy(held_version, held, VERSION_BYTES);
        }
        return order > 0 ? MERGED_NOT_NEWER_HELD : MERGED_NOT;
    }
    int over_live = is_tombstone(bytes) && is_live(held, now_ms);
    int failed = index == 0 || is_over ? merge_expired(store, key, bytes, index, now_ms)
                                       : overwrite(store, index, record);
    return failed ? -1 : over_live ? MERGED_OVER_LIVE : MERGED;
}

/* Beginning and end */

int
store_init(struct store *store, uint32_t slots)
{
    store->slots = slots;
    store->tables = PyMem_RawCalloc(slots, sizeof *store->tables);
    store->changed = PyMem_RawMalloc(slots);
    if (store->tables == NULL || store->changed == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(store->changed, 1, slots);
    for (uint32_t ring = 0; ring < RINGS; ring++) {
        if (new_index(store) != ring || PyErr_Occurred()) {
            return -1;
        }
        store_entry(store, ring)->before = store_entry(store, ring)->after = ring;
    }
    return 0;
}

/* Let go of all entries, and of the memory that they took; the rings' own two stay where they are. */
void
store_clear(struct store *store)
{
    for (uint32_t index = RINGS; index < store->index_count; index++) {
        struct block *block = store_entry(store, index)->block;
        if (block != NULL) {
            block_free(block);
        }
    }
    for (uint32_t slot = 0; slot < store->slots; slot++) {
        table_free(&store->tables[slot]);
    }
    while (store->chunk_count > 1) {
        PyMem_RawFree(store->chunks[--store->chunk_count]);
    }
    store->index_count = RINGS;
    store->free_first = store->free_count = 0;
    for (uint32_t ring = 0; ring < RINGS; ring++) {
        store_entry(store, ring)->before = store_entry(store, ring)->after = ring;
    }
    calendar_clear(&store->calendar);
    recency_clear(store);
    memset(store->changed, 1, store->slots);
    store->counts.entries = store->counts.tombstones = store->counts.bytes = store->counts.tombstone_bytes = 0;
}

void
store_free(struct store *store)
{
    if (store->chunk_count > 0) {
        store_clear(store);
        PyMem_RawFree(store->chunks[0]);
    }
    PyMem_RawFree(store->chunks);
    PyMem_RawFree(store->tables);
    PyMem_RawFree(store->changed);
}
