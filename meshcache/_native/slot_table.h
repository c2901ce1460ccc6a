/* The table of one slot: which entries it has, by the hash of their key, and in the order in which they came.
 *
 * As in Python's dicts, ``held`` has the entries in the order of their arrival, and ``places`` leads from a hash to a
 * position in it. Nothing but these two is looked at until the hashes agree, and making a table anew reads no entry. A
 * table that is full is made anew, with room for a quarter more than it then holds: so it is small after entries have
 * come and gone, and one insert pays for the copy of four. */

#ifndef MESHCACHE_SLOT_TABLE_H
#define MESHCACHE_SLOT_TABLE_H

#include <stdint.h>

#define TABLE_NONE UINT32_MAX
#define TABLE_DELETED (UINT32_MAX - 1)

struct held {
    uint32_t index; /* 0: it has gone */
    uint32_t hash;
};

struct slot_table {
    struct held *held;
    uint32_t *places; /* in one piece with ``held`` */
    uint32_t count;   /* entries in the slot */
    uint32_t used;    /* of ``held``, what has gone included */
    uint32_t room;
    uint32_t place_count;
};

/* Make sure that one more entry fits; -1: no memory. */
int table_reserve(struct slot_table *table);
/* Add an entry that is not in the table, after table_reserve. */
void table_add(struct slot_table *table, uint32_t hash, uint32_t index);
void table_remove(struct slot_table *table, uint32_t hash, uint32_t index);
void table_free(struct slot_table *table);

/* Return the place to look at first. */
static inline uint32_t
table_first(const struct slot_table *table, uint32_t hash)
{
    return (uint32_t)((uint64_t)hash * table->place_count >> 32);
}

static inline uint32_t
table_next(const struct slot_table *table, uint32_t place)
{
    return place + 1 == table->place_count ? 0 : place + 1;
}

#endif
