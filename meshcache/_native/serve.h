/* The node's usual GET and SET: see serve.c. */

#ifndef MESHCACHE_SERVE_H
#define MESHCACHE_SERVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Add the type UsualRequests to the module; -1 with an exception set if that fails. */
int serve_exec(PyObject *module);

#endif
