#ifndef MESHCACHE_OUTCOME_H
#define MESHCACHE_OUTCOME_H

/* What became of a step. */
typedef enum {
    FAILED = -1, /* with an exception */
    UNUSUAL = 0, /* Python must take it: the general way does this, and nothing was changed */
    DONE = 1,
    WENT_ON = 2 /* Python has gone on */
} Outcome;

#endif
