#ifndef MESHCACHE_CLOCK_H
#define MESHCACHE_CLOCK_H

/* The clock that a part of the client was given, which is time.monotonic but in tests. */

#include <Python.h>
#include <stdbool.h>
#include <time.h>

typedef struct {
    PyObject *call;
    bool is_monotonic; /* whether it is time.monotonic */
} Clock;

/* Keeps a reference to `call`. Returns false with an exception if that fails. */
static inline bool
clock_set(Clock *clock, PyObject *call)
{
    PyObject *module = PyImport_ImportModule("time");
    PyObject *monotonic = module == NULL ? NULL : PyObject_GetAttrString(module, "monotonic");
    clock->is_monotonic = call == monotonic;
    clock->call = monotonic == NULL ? NULL : Py_NewRef(call);
    Py_XDECREF(monotonic);
    Py_XDECREF(module);
    return clock->call != NULL;
}

/* What the clock says; -1 with an exception if that fails. */
static inline double
clock_read(const Clock *clock)
{
    if (clock->is_monotonic) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now); /* as time.monotonic does; without a call and an object */
        return (double)(now.tv_sec * 1000000000LL + now.tv_nsec) / 1e9;
    }
    PyObject *time = PyObject_CallNoArgs(clock->call);
    double now = time == NULL ? -1.0 : PyFloat_AsDouble(time);
    Py_XDECREF(time);
    return now;
}

#endif
