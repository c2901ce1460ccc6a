#ifndef MESHCACHE_CLIENT_H
#define MESHCACHE_CLIENT_H

#include <Python.h>

/* Adds the client's functions to the module; see client.c. Returns -1 with an exception set if that fails. */
int client_exec(PyObject *module);

#endif
