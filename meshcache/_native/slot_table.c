/* See slot_table.h. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "slot_table.h"

#define ROOM_MIN 6
#define PLACES_PER_ROOM(room) ((room) * 8 / 5 + 1)

static void
put(struct slot_table *table, uint32_t hash, uint32_t position)
{
    uint32_t place = table_first(table, hash);
    while (table->places[place] < TABLE_DELETED) {
        place = table_next(table, place);
    }
    table->places[place] = position;
}

int
table_reserve(struct slot_table *table)
{
    if (table->used < table->room) {
        return 0;
    }
    struct slot_table fresh = {.count = table->count};
    uint64_t room = (uint64_t)table->count + table->count / 4 + ROOM_MIN;
    if (room > UINT32_MAX / 8) {
        return -1;
    }
    fresh.room = (uint32_t)room;
    fresh.place_count = PLACES_PER_ROOM(fresh.room);
    fresh.held = PyMem_RawMalloc(fresh.room * sizeof(struct held) + fresh.place_count * sizeof(uint32_t));
    if (fresh.held == NULL) {
        return -1;
    }
    fresh.places = (uint32_t *)(fresh.held + fresh.room);
    memset(fresh.places, 0xff, fresh.place_count * sizeof(uint32_t));
    for (uint32_t i = 0; i < table->used; i++) {
        if (table->held[i].index != 0) {
            fresh.held[fresh.used] = table->held[i];
            put(&fresh, table->held[i].hash, fresh.used++);
        }
    }
    PyMem_RawFree(table->held);
    *table = fresh;
    return 0;
}

void
table_add(struct slot_table *table, uint32_t hash, uint32_t index)
{
    table->held[table->used] = (struct held){index, hash};
    put(table, hash, table->used++);
    table->count++;
}

void
table_remove(struct slot_table *table, uint32_t hash, uint32_t index)
{
    uint32_t place = table_first(table, hash);
    while (table->places[place] == TABLE_DELETED || table->held[table->places[place]].index != index) {
        place = table_next(table, place);
    }
    table->held[table->places[place]].index = 0;
    table->places[place] = TABLE_DELETED;
    if (--table->count == 0) {
        table_free(table);
    }
}

void
table_free(struct slot_table *table)
{
    PyMem_RawFree(table->held);
    memset(table, 0, sizeof *table);
}
