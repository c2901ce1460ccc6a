#ifndef MESHCACHE_PENDING_H
#define MESHCACHE_PENDING_H

#include <Python.h>

/* The types Pending, Gathering and Gets: see pending.c. */
extern PyType_Spec pending_spec, gathering_spec, gets_spec;

/* Adds the function `wake` to the module. Returns -1 with an exception set if that fails. */
int pending_exec(PyObject *module);

#endif
