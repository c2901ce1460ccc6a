/* The node's usual GET and SET: see serve.c. */

#ifndef MESHCACHE_SERVE_H
#define MESHCACHE_SERVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "request.h"

/* The type UsualRequests. */
extern PyType_Spec usual_spec;

/* Serve a frame as UsualRequests.serve does, but for the reply, if it is small: that is returned, not put into the
 * outbox. ``usual`` must be a UsualRequests. ``kind``: GET or SET, if the outcome is not UNUSUAL. */
Outcome serve_at_once(PyObject *usual, PyObject *origin, const uint8_t *data, size_t size, PyObject **reply,
                      uint64_t *kind);

#endif
