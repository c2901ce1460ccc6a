/* Turns of a node's loop that serve one usual request: see turns.c. */

#ifndef MESHCACHE_TURNS_H
#define MESHCACHE_TURNS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* The type UsualTurns; it is there on Linux. */
extern PyType_Spec turns_spec;

#endif
