/* Which entry goes next when the store is full: LRU and S3-FIFO, exactly as meshcache/core/storage/recency.py says. */

#include "store.h"

#define WHOLE 64
#define SMALL_SHARE 16
#define DOUBT_SHARE 8
#define DOUBT_MIN 4
#define REUSE_WORTH 2
#define GHOST_SHARE 32
#define USES_MAX 3
#define CHANCES_MAX 64
#define WAYS 8

void
ring_unlink(struct store *store, uint32_t index)
{
    const struct entry *entry = store_entry(store, index);
    store_entry(store, entry->before)->after = entry->after;
    store_entry(store, entry->after)->before = entry->before;
}

void
ring_append(struct store *store, uint32_t index, uint32_t ring)
{
    struct entry *entry = store_entry(store, index), *sentinel = store_entry(store, ring);
    entry->before = sentinel->before;
    entry->after = ring;
    store_entry(store, sentinel->before)->after = index;
    sentinel->before = index;
}

/* Ghosts: a bucket has the hashes of the keys that went, the latest first; 0: none. */

static uint32_t
ghost_of(const struct block *block)
{
    uint32_t hash = crc32_of(block->data, block->key_bytes);
    return hash == 0 ? 1 : hash;
}

static uint32_t *
bucket_of(const struct queues *queues, uint32_t ghost)
{
    return queues->ghosts + ((uint64_t)ghost * (uint64_t)queues->buckets >> 32) * WAYS;
}

static int
make_ghosts(struct queues *queues, int64_t entries)
{
    int64_t wanted = (entries + entries / 4 + WAYS - 1) / WAYS;
    int64_t buckets = Py_MIN(wanted, queues->buckets_max);
    uint32_t *ghosts = PyMem_RawCalloc((size_t)buckets * WAYS + 1, sizeof *ghosts);
    if (ghosts == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyMem_RawFree(queues->ghosts);
    queues->ghosts = ghosts;
    queues->buckets = buckets;
    queues->ghost_bytes = buckets * WAYS * (int64_t)sizeof *ghosts;
    queues->entries_min = buckets;
    queues->entries_max = buckets == wanted ? buckets * WAYS : INT64_MAX;
    return 0;
}

static int
add_ghost(struct store *store, const struct block *block)
{
    struct queues *queues = &store->queues;
    int64_t entries = store->counts.entries, bytes_before = queues->ghost_bytes;
    if ((entries < queues->entries_min || entries > queues->entries_max) && make_ghosts(queues, entries) < 0) {
        return -1;
    }
    store->counts.bytes += queues->ghost_bytes - bytes_before;
    if (queues->buckets > 0) {
        uint32_t *bucket = bucket_of(queues, ghost_of(block));
        memmove(bucket + 1, bucket, (WAYS - 1) * sizeof *bucket);
        bucket[0] = ghost_of(block);
    }
    return 0;
}

/* Return the place in its bucket of the ghost that the key of this block has, and remove it; -1: it has none. */
static int
take_ghost(struct queues *queues, const struct block *block)
{
    uint32_t ghost = ghost_of(block);
    uint32_t *bucket = queues->buckets > 0 ? bucket_of(queues, ghost) : NULL;
    for (int i = 0; bucket != NULL && i < WAYS; i++) {
        if (bucket[i] == ghost) {
            memmove(bucket + i, bucket + i + 1, (size_t)(WAYS - 1 - i) * sizeof *bucket);
            bucket[WAYS - 1] = 0;
            return i;
        }
    }
    return -1;
}

/* Regret */

static int64_t
part_of(int64_t limit, int64_t share)
{
    return limit / WHOLE * share + limit % WHOLE * share / WHOLE; /* limit * share may be too great */
}

static void
set_share(struct store *store, int64_t share)
{
    struct queues *queues = &store->queues;
    queues->share = share;
    queues->small_entries_max = Py_MAX(1, part_of(store->max_entries, share));
    queues->small_bytes_max = part_of(store->max_bytes, share);
}

static int64_t
doubt_from(const struct queues *queues)
{
    return queues->entries / DOUBT_SHARE + DOUBT_MIN;
}

static int64_t
doubt_to(const struct queues *queues)
{
    return queues->entries + DOUBT_MIN;
}

static int
is_in_doubt(const struct queues *queues)
{
    return queues->regret >= doubt_from(queues) && queues->regret < doubt_to(queues);
}

static void
change_regret(struct store *store, int64_t by)
{
    struct queues *queues = &store->queues;
    queues->regret = Py_MAX(0, queues->regret + by);
    int64_t over = queues->regret - doubt_to(queues);
    int64_t share = Py_MIN(WHOLE, SMALL_SHARE + Py_MAX(0, over) * WHOLE / queues->entries);
    if (share != queues->share) {
        set_share(store, share);
    }
}

static void
take_near_ghost(struct store *store)
{
    struct queues *queues = &store->queues;
    uint32_t index = store_entry(store, RING_LIVE)->after;
    struct entry *head = store_entry(store, index);
    if (queues->regret < doubt_from(queues) || index == RING_LIVE || head->uses == 0) {
        change_regret(store, 1);
        return;
    }
    ring_unlink(store, index);
    ring_append(store, index, RING_LIVE);
    head->uses--;
    change_regret(store, Py_MAX(-1, doubt_from(queues) - queues->regret));
}

/* What becomes of entries */

static int
is_over_share(const struct queues *queues)
{
    return queues->small_entries > queues->small_entries_max || queues->small_bytes > queues->small_bytes_max;
}

static uint32_t
ring_to_enter(struct store *store, const struct entry *entry)
{
    struct queues *queues = &store->queues;
    if (is_tombstone(record_at(entry))) {
        return RING_DEAD;
    }
    if (!queues->is_on) {
        return RING_LIVE;
    }
    int place = take_ghost(queues, entry->block);
    if (place >= 0) {
        queues->ghost_hits++;
        if (place * queues->buckets < queues->entries - part_of(queues->entries, queues->share)) {
            take_near_ghost(store);
        }
        return is_in_doubt(queues) ? RING_SMALL : RING_LIVE;
    }
    if (!queues->has_evicted && is_over_share(queues)) {
        return RING_LIVE;
    }
    if (queues->regret > 0 && queues->regret < doubt_from(queues)) {
        change_regret(store, -1);
    }
    return RING_SMALL;
}

void
recency_enter(struct store *store, uint32_t index)
{
    struct entry *entry = store_entry(store, index);
    uint32_t ring = ring_to_enter(store, entry);
    entry->uses = 0;
    entry->has_stayed = 0;
    entry->is_in_small = ring == RING_SMALL;
    if (ring == RING_SMALL) {
        store->queues.small_entries++;
        store->queues.small_bytes += untagged_bytes(store, entry->block->key_bytes, entry->block->record_bytes);
    }
    ring_append(store, index, ring);
}

void
recency_leave(struct store *store, uint32_t index, Py_ssize_t record_bytes)
{
    struct entry *entry = store_entry(store, index);
    if (entry->is_in_small) {
        store->queues.small_entries--;
        store->queues.small_bytes -= untagged_bytes(store, entry->block->key_bytes, record_bytes);
    }
    entry->uses = 0;
    entry->has_stayed = 0;
    entry->is_in_small = 0;
}

void
recency_replaced(struct store *store, uint32_t index, Py_ssize_t bytes_before, int was_tombstone)
{
    const struct entry *entry = store_entry(store, index);
    if (!store->queues.is_on || was_tombstone || is_tombstone(record_at(entry))) {
        recency_leave(store, index, bytes_before);
        ring_unlink(store, index);
        recency_enter(store, index);
    } else if (entry->is_in_small) {
        store->queues.small_bytes += untagged_bytes(store, entry->block->key_bytes, entry->block->record_bytes) -
                                     untagged_bytes(store, entry->block->key_bytes, bytes_before);
    }
}

void
recency_used(struct store *store, uint32_t index)
{
    struct entry *entry = store_entry(store, index);
    if (store->queues.is_on) {
        entry->uses += entry->uses < USES_MAX;
    } else if (entry->after != RING_LIVE) {
        ring_unlink(store, index);
        ring_append(store, index, RING_LIVE);
    }
}

/* Return the entry that S3-FIFO looks at next. */
static uint32_t
candidate(const struct store *store, uint32_t written)
{
    const struct entry *live = store_entry(store, RING_LIVE), *small = store_entry(store, RING_SMALL);
    int from_small = is_over_share(&store->queues) || live->after == RING_LIVE;
    uint32_t index = from_small ? small->after : live->after;
    if (index == written && store->counts.entries > 1) {
        index = store_entry(store, written)->after;
        if (index < RINGS) {
            index = from_small ? live->after : small->after;
        }
    }
    return index;
}

static void
give_chance(struct store *store, uint32_t index)
{
    struct queues *queues = &store->queues;
    struct entry *entry = store_entry(store, index);
    ring_unlink(store, index);
    if (!entry->is_in_small || entry->has_stayed) {
        change_regret(store, -REUSE_WORTH);
    }
    if (!entry->is_in_small) {
        entry->uses--;
    } else if (queues->regret >= doubt_from(queues) && !entry->has_stayed) {
        entry->uses = 0;
        entry->has_stayed = 1;
        ring_append(store, index, RING_SMALL);
        return;
    } else {
        queues->promotions++;
        recency_leave(store, index, entry->block->record_bytes);
    }
    ring_append(store, index, RING_LIVE);
}

int64_t
recency_victim(struct store *store, uint32_t written)
{
    struct queues *queues = &store->queues;
    if (!queues->is_on) {
        return store_entry(store, RING_LIVE)->after;
    }
    queues->has_evicted = 1;
    queues->entries = store->counts.entries;
    for (int chances = CHANCES_MAX;; chances--) {
        uint32_t index = candidate(store, written);
        if (index < RINGS) {
            return index; /* forget() says that this cannot be */
        }
        struct entry *entry = store_entry(store, index);
        int has_expired = expiry_of(record_at(entry)) <= store->now_ms;
        if (!has_expired && entry->uses > 0 && chances > 0) {
            give_chance(store, index);
            continue;
        }
        if (entry->is_in_small) {
            recency_leave(store, index, entry->block->record_bytes);
            if (!has_expired) {
                queues->small_evictions++;
                if (add_ghost(store, entry->block) < 0) {
                    return -1;
                }
            }
        }
        return index;
    }
}

void
recency_init(struct store *store, int is_s3fifo)
{
    struct queues *queues = &store->queues;
    queues->is_on = is_s3fifo;
    set_share(store, SMALL_SHARE);
    queues->buckets_max = store->max_bytes / GHOST_SHARE / (WAYS * (int64_t)sizeof *queues->ghosts);
}

void
recency_clear(struct store *store)
{
    struct queues *queues = &store->queues;
    PyMem_RawFree(queues->ghosts);
    queues->ghosts = NULL;
    queues->buckets = queues->ghost_bytes = queues->entries_min = queues->entries_max = 0;
    queues->small_entries = queues->small_bytes = 0;
    queues->regret = queues->entries = 0;
    queues->has_evicted = 0;
    set_share(store, SMALL_SHARE);
}
