/* The store as an object of Python. */

#ifndef MESHCACHE_STORE_OBJECT_H
#define MESHCACHE_STORE_OBJECT_H

#include "store.h"

int store_exec(PyObject *module);

#endif
