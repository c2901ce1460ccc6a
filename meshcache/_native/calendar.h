/* The calendar: when to look at which entry, in buckets by number, the earliest first. What is booked in a bucket last is
 * looked at first. A bucket grows by pieces, so that none of them is ever copied, however many entries expire at once. */

#ifndef MESHCACHE_CALENDAR_H
#define MESHCACHE_CALENDAR_H

#include <stddef.h>
#include <stdint.h>

struct bookings {
    struct bookings *below;
    uint32_t count, room;
    uint32_t indices[];
};

struct bucket {
    int64_t number;
    struct bookings *top; /* NULL: none are left */
};

struct calendar {
    struct bucket *buckets; /* by number */
    size_t count, room;
    int64_t bookings; /* in all buckets */
};

/* Book an entry; -1: no memory. */
int calendar_add(struct calendar *calendar, int64_t number, uint32_t index);
/* Take the booking out of the first bucket that came last; 0: it is empty. */
uint32_t calendar_take(struct calendar *calendar);
/* Take out the first bucket, which must be empty. */
void calendar_turn(struct calendar *calendar);
void calendar_clear(struct calendar *calendar);

#endif
