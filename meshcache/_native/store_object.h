/* The store as an object of Python. */

#ifndef MESHCACHE_STORE_OBJECT_H
#define MESHCACHE_STORE_OBJECT_H

#include "store.h"

extern PyType_Spec entries_spec;

/* Return the store that an object of Python is, borrowed; NULL with a TypeError: it is none of this module's. */
struct store *store_from(PyObject *module, PyObject *object);

#endif
