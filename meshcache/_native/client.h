#ifndef MESHCACHE_CLIENT_H
#define MESHCACHE_CLIENT_H

#include <Python.h>

#include "outcome.h"

/* The address that is asked first for a key; borrowed. `first` and `hot` are as of Routing, and may be anything. */
Outcome find_owner(PyObject *prefix, PyObject *key, PyObject *first, PyObject *hot, PyObject **owner);

/* Adds the client's functions to the module; see client.c. Returns -1 with an exception set if that fails. */
int client_exec(PyObject *module);

#endif
