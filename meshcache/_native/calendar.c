/* See calendar.h. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "calendar.h"

#define ROOM_MIN 6
#define ROOM_MAX 1020

/* Return where a bucket is, or is to be put in. */
static size_t
position_of(const struct calendar *calendar, int64_t number)
{
    size_t low = 0, high = calendar->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (calendar->buckets[middle].number < number) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static struct bucket *
bucket_of(struct calendar *calendar, int64_t number)
{
    size_t at = position_of(calendar, number);
    if (at < calendar->count && calendar->buckets[at].number == number) {
        return &calendar->buckets[at];
    }
    if (calendar->count == calendar->room) {
        size_t room = calendar->room * 2 + 8;
        struct bucket *buckets = PyMem_RawRealloc(calendar->buckets, room * sizeof(struct bucket));
        if (buckets == NULL) {
            return NULL;
        }
        calendar->buckets = buckets;
        calendar->room = room;
    }
    struct bucket *bucket = &calendar->buckets[at];
    memmove(bucket + 1, bucket, (calendar->count++ - at) * sizeof(struct bucket));
    *bucket = (struct bucket){number, NULL};
    return bucket;
}

int
calendar_add(struct calendar *calendar, int64_t number, uint32_t index)
{
    struct bucket *bucket = bucket_of(calendar, number);
    if (bucket == NULL) {
        return -1;
    }
    struct bookings *top = bucket->top;
    if (top == NULL || top->count == top->room) {
        uint32_t room = top == NULL ? ROOM_MIN : Py_MIN(top->room * 2 + 4, ROOM_MAX);
        struct bookings *fresh = PyMem_RawMalloc(sizeof *fresh + room * sizeof(uint32_t));
        if (fresh == NULL) {
            return -1;
        }
        fresh->below = top;
        fresh->count = 0;
        fresh->room = room;
        bucket->top = top = fresh;
    }
    top->indices[top->count++] = index;
    calendar->bookings++;
    return 0;
}

uint32_t
calendar_take(struct calendar *calendar)
{
    struct bookings *top = calendar->buckets[0].top;
    if (top == NULL) {
        return 0;
    }
    uint32_t index = top->indices[--top->count];
    calendar->bookings--;
    if (top->count == 0) {
        calendar->buckets[0].top = top->below;
        PyMem_RawFree(top);
    }
    return index;
}

void
calendar_turn(struct calendar *calendar)
{
    calendar->count--;
    memmove(calendar->buckets, calendar->buckets + 1, calendar->count * sizeof(struct bucket));
}

void
calendar_clear(struct calendar *calendar)
{
    for (size_t i = 0; i < calendar->count; i++) {
        struct bookings *top = calendar->buckets[i].top;
        while (top != NULL) {
            struct bookings *below = top->below;
            PyMem_RawFree(top);
            top = below;
        }
    }
    PyMem_RawFree(calendar->buckets);
    *calendar = (struct calendar){0};
}
