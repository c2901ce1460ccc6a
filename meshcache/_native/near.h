#ifndef MESHCACHE_NEAR_H
#define MESHCACHE_NEAR_H

#include <Python.h>

/* Adds the type NearReads to the module; see near.c. Returns -1 with an exception set if that fails. */
int near_exec(PyObject *module);

#endif
