/* Turns of a node's loop that serve one usual request: see turns.c. */

#ifndef MESHCACHE_TURNS_H
#define MESHCACHE_TURNS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Add the type UsualTurns to the module, on Linux; -1 with an exception set if that fails. */
int turns_exec(PyObject *module);

#endif
