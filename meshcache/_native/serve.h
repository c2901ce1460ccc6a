/* The node's usual GET and SET: see serve.c. */

#ifndef MESHCACHE_SERVE_H
#define MESHCACHE_SERVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "request.h"

/* The type UsualRequests. */
extern PyType_Spec usual_spec;

/* Serve a frame as UsualRequests.serve does, but for the reply, if it is small: that is returned, not put into the
 * outbox. ``usual`` must be a UsualRequests. ``kind``: of the request, if the outcome is not UNUSUAL. */
Outcome serve_at_once(PyObject *usual, PyObject *origin, const uint8_t *data, size_t size, PyObject **reply,
                      uint64_t *kind);

/* Take an answer as UsualRequests.take does, but for the reply that follows from it, if there is one and it is small:
 * that is returned, and whose it is. Neither is set unless the outcome is DONE. */
Outcome take_at_once(PyObject *usual, PyObject *address, const uint8_t *data, size_t size, PyObject **reply,
                     PyObject **origin);

/* Append to the list that a dict has by this key; it is made if there is none. */
int append_to(PyObject *lists, PyObject *key, PyObject *item);

#endif
