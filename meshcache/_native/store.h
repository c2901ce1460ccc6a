/* The store: the records of one node by key, in the order of their use, within limits. What it does, and why, is said in
 * meshcache/core/storage/store.py, its twin, function by function under the same names; here is how it is laid out.
 *
 * An entry is 32 bytes in a chunk of a thousand, and has an index. Chunks are never moved and tables never larger than a
 * slot, so that nothing takes noticeably longer in a large store; and links are indices, of half the size of a pointer.
 * Its *block* has key and record, in memory of Python's allocator, which keeps pieces of up to 512 bytes by size, without
 * a header. A record of LARGE_BYTES or more stays the ``bytes`` object that it was, and is handed out as it is.
 *
 * Reads move entries in the rings at once, or count as uses. The twin notes them first; what anybody can see is the same.
 *
 * A record that is found lies where it is until the store is next changed; whoever calls into Python in between must not
 * rely on it. The store is for one thread at a time: the one that has the GIL, from first to last. */

#ifndef MESHCACHE_STORE_H
#define MESHCACHE_STORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#include "calendar.h"
#include "hashes.h"
#include "slot_table.h"

/* The layout of a record, see meshcache/protocol/record.py. */
#define VERSION_BYTES 16
#define EXPIRY_AT 16
#define FLAGS_AT 22
#define HEADER_BYTES 24
#define TOMBSTONE 0x01
#define EXTRAS 0x02
#define NEVER_MS (((int64_t)1 << 48) - 1)

#define LARGE_BYTES (64 * 1024)
#define KEY_BYTES_MAX UINT16_MAX

struct block {
    uint32_t record_bytes;
    uint16_t key_bytes;
    uint16_t is_large; /* the key is followed by a pointer to the ``bytes`` of the record */
    char data[];
};

struct entry {
    struct block *block; /* NULL: the index is free */
    uint32_t before, after; /* in its ring; of free ones, ``after`` is the next */
    int64_t booked;
    uint32_t slot : 24;
    uint32_t uses : 6; /* of S3-FIFO, as what follows */
    uint32_t is_in_small : 1;
    uint32_t has_stayed : 1;
    uint32_t hash;
};

/* How an entry is charged, see meshcache/core/storage/charges.py. */
struct charges {
    Py_ssize_t key_pad, key_mask, record_pad, overhead;
};

struct store_counts {
    int64_t entries, tombstones, bytes, tombstone_bytes;
    int64_t hits, misses, evictions, expirations, tombstones_reaped, tombstones_dropped, refused;
};

/* What S3-FIFO needs to know, see recency.py. */
struct queues {
    int is_on;
    int has_evicted;
    int64_t regret, share, entries; /* ``entries``: the live ones at the last search for a victim */
    int64_t small_entries_max, small_bytes_max;
    int64_t small_entries, small_bytes;
    int64_t small_evictions, promotions, ghost_hits;
    uint32_t *ghosts;
    int64_t buckets, buckets_max, ghost_bytes;
    int64_t entries_min, entries_max; /* for how many live entries ``ghosts`` is made */
};

struct store {
    PyObject_HEAD
    int64_t max_entries, max_bytes, tombstone_bytes_max, grace_ms;
    struct charges charges;
    struct secret secret;
    uint32_t slots;
    struct slot_table *tables;
    char *changed;          /* by slot: 1 if its digest is out of date */
    struct entry **chunks;
    uint32_t chunk_count;
    uint32_t index_count;   /* indices that were ever used, with the rings' own two */
    uint32_t free_first, free_count;
    int64_t now_ms, horizon;
    struct calendar calendar;
    struct queues queues;
    struct store_counts counts;
    PyObject *covers;       /* dict: by index, see the twin */
    PyObject *tags;         /* the TagIndex; told of records with extras only */
    PyObject *floors;       /* list of bytes */
    PyObject *digests;      /* the same, for Python */
    PyObject *charged_by;   /* ``charges``, for Python */
};

/* A key, and what follows from it. */
struct key {
    const char *bytes;
    Py_ssize_t length;
    uint32_t slot, hash;
};

/* A record. ``owner``: the ``bytes`` object that it is, or NULL. */
struct record {
    const char *bytes;
    Py_ssize_t length;
    PyObject *owner;
};

/* Every function that can fail returns -1 (or NULL) with a Python exception set. */

int store_init(struct store *store, uint32_t slots);
void store_free(struct store *store);
void store_clear(struct store *store);

/* Return a key for the functions below; its length must have been checked: 0 to KEY_BYTES_MAX. */
struct key store_key(const struct store *store, const char *bytes, Py_ssize_t length);
/* Fetch what looking up these keys will touch, KEYS_AT_ONCE at most: where memory is slow, for all of them together. */
#define KEYS_AT_ONCE 64
void store_fetch(const struct store *store, const struct key *keys, Py_ssize_t count);
/* Return the index of an entry; 0: the key is not held. */
uint32_t store_find(const struct store *store, const struct key *key);
struct record store_record(const struct store *store, uint32_t index);
struct record store_key_of(const struct store *store, uint32_t index);
/* Count a read of a live entry, and make it the most recently used. */
void store_note_hit(struct store *store, uint32_t index);
/* Free an entry that has expired and that a read has found. */
int store_free_expired(struct store *store, uint32_t index, int64_t now_ms);

/* Begin to merge: one or several calls of store_merge follow. */
void store_begin(struct store *store, int64_t now_ms);
enum merged { MERGED = 0, MERGED_OVER_LIVE = 1, MERGED_NOT = 2, MERGED_NOT_NEWER_HELD = 3 };
/* Merge one record of at least HEADER_BYTES. With MERGED_NOT_NEWER_HELD, ``held`` has the version that is held. */
int store_merge(struct store *store, const struct key *key, const struct record *record, int64_t now_ms, char *held);

int store_remove(struct store *store, uint32_t index);
int store_expire(struct store *store, int64_t now_ms, int64_t budget);
int store_leave_trace(struct store *store, uint32_t index, const char *version, int64_t until_ms);

/* Rings and policies, in recency.c. The sentinels of the rings have the first indices. */

enum { RING_LIVE = 0, RING_DEAD = 1, RING_SMALL = 2, RINGS = 3 };

void recency_init(struct store *store, int is_s3fifo);
void ring_unlink(struct store *store, uint32_t index);
void ring_append(struct store *store, uint32_t index, uint32_t ring);
/* An entry has come, or its record was replaced by another; in no ring, or in one. */
void recency_enter(struct store *store, uint32_t index);
void recency_replaced(struct store *store, uint32_t index, Py_ssize_t bytes_before, int was_tombstone);
/* An entry goes, or becomes a tombstone: forget what is known of its uses; ``record_bytes`` was counted of it. */
void recency_leave(struct store *store, uint32_t index, Py_ssize_t record_bytes);
void recency_used(struct store *store, uint32_t index);
/* Return the entry that goes next; ``written`` is the last to go. -1: an exception. */
int64_t recency_victim(struct store *store, uint32_t written);
void recency_clear(struct store *store);

static inline struct entry *
store_entry(const struct store *store, uint32_t index)
{
    return &store->chunks[index >> 10][index & 1023];
}

static inline PyObject *
owner_of(const struct block *block)
{
    PyObject *owner = NULL;
    if (block->is_large) {
        memcpy(&owner, block->data + block->key_bytes, sizeof owner);
    }
    return owner;
}

/* Return where the record of an entry is. */
static inline const char *
record_at(const struct entry *entry)
{
    const struct block *block = entry->block;
    return block->is_large ? PyBytes_AS_STRING(owner_of(block)) : block->data + block->key_bytes;
}

/* Return what an entry is charged, without its tags. */
static inline int64_t
untagged_bytes(const struct store *store, Py_ssize_t key_bytes, Py_ssize_t record_bytes)
{
    const struct charges *by = &store->charges;
    return ((((key_bytes + by->key_pad) & by->key_mask) + record_bytes + by->record_pad) & -16) + by->overhead;
}

static inline int64_t
big_endian_48(const char *bytes)
{
    const unsigned char *b = (const unsigned char *)bytes;
    return (int64_t)((uint64_t)b[0] << 40 | (uint64_t)b[1] << 32 | (uint64_t)b[2] << 24 | (uint64_t)b[3] << 16 |
                     (uint64_t)b[4] << 8 | b[5]);
}

static inline int64_t
expiry_of(const char *record)
{
    return big_endian_48(record + EXPIRY_AT);
}

static inline int
is_tombstone(const char *record)
{
    return record[FLAGS_AT] & TOMBSTONE;
}

/* Whether a reader may see it. */
static inline int
is_live(const char *record, int64_t now_ms)
{
    return expiry_of(record) > now_ms && !is_tombstone(record);
}

#endif
