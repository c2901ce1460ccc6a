/* A usual request, as it is read from its frame: see request.c. */

#ifndef MESHCACHE_REQUEST_H
#define MESHCACHE_REQUEST_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "outcome.h"
#include "wire.h"

/* Kinds of messages. */
#define GET 10
#define SET 11
#define REPLY 20
#define WRITE 32
#define WRITE_REPLY 33

#define KEY_SIZE_MAX 1024
#define CONTENT_FLAG_BYTES 2
#define GET_KEYS_MAX 1000 /* a larger one is run in portions, see portions.py */
#define SET_KEYS_MAX 500
#define WRITE_KEYS_MAX 1000
#define DIGEST_SIZE_MAX 8

/* A request as it is read from its frame. */
typedef struct {
    uint64_t clock; /* of the node that asks; of a client: 0 */
    uint64_t kind;
    uint64_t number;
    int64_t deadline_ms;
    Slice view;
    int64_t r; /* of a SET: 0 */
    int64_t w;
    int64_t ttl_ms; /* of a SET */
    uint32_t count;
    Slice *keys;
    Slice *contents;    /* of a SET, and the records of a WRITE: as many, in the same piece of memory */
    PyObject *key_list; /* the keys as objects: made when somebody asks for them, see keys_of */
    int64_t size;       /* bytes of all contents … */
    int64_t size_max;   /* … and of the greatest */
} Request;

/* Read a frame of one GET or WRITE, or of one SET if these are asked for, for the process with this boot id; anything
 * else is unusual. The request must be zero before, and be freed after, whatever becomes of it. */
Outcome read_request(Reader *reader, uint64_t boot, bool sets, Request *request);
void request_free(Request *request);

/* Make a list of byte strings. */
PyObject *list_of(const Slice *slices, uint32_t count);
/* Return the keys as a list, borrowed; NULL with an exception set if that fails. */
PyObject *keys_of(Request *request);

#endif
