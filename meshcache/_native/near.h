#ifndef MESHCACHE_NEAR_H
#define MESHCACHE_NEAR_H

#include <Python.h>

/* The type NearReads: see near.c. */
extern PyType_Spec near_spec;

#endif
