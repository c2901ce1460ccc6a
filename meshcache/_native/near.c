/* A hit in the near cache: one call looks a copy up by the key as the user wrote it, checks its times, marks it as used,
 * counts, and returns its value.
 *
 * meshcache/client/near_cache.py has the twin in Python (`pure_near_reads`), which is the specification. Everything that is
 * kept belongs to Python: the copies (lists), the table by key as given, the store. So a copy is voided
 * here as there: in place, by whoever holds the store's lock. This takes no lock; it holds the GIL from first to last,
 * but for what it calls: the clock, and the codec of a value that a reader could change.
 *
 * A key that is not found in the table is looked up by `find`, which puts its copy there if there is one. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>
#include <structmember.h>

#include "clock.h"
#include "near.h"

enum { UNTIL = 0, VALUE = 1, RECORD = 2, USED = 4, FIELDS = 5 };

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *found;    /* dict: copies by key as given */
    PyObject *near;     /* the store, with live_until and hits */
    PyObject *entries;  /* its OrderedDict: copies by raw key */
    Clock clock;
    PyObject *decode;   /* makes a value of a record */
    PyObject *find;     /* looks a key up for the table; says whether there is another copy than before */
    PyObject *missing;  /* what is returned for a key without a copy */
    PyObject *names[2]; /* live_until, hits */
} NearReads;

/* Whether `now` is before a time that should be a float. */
static int
is_before(double now, PyObject *time)
{
    double until = PyFloat_AsDouble(time);
    if (until == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    return now < until;
}

/* Whether a copy may be served now: 1, 0, or -1 with an exception. */
static int
may_be_served(NearReads *self, PyObject *copy)
{
    double now = clock_read(&self->clock);
    if (now == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    /* The clock may have run anything: the copy is looked at after that. */
    if (PyList_GET_SIZE(copy) != FIELDS) {
        return 0;
    }
    int before = is_before(now, PyList_GET_ITEM(copy, UNTIL));
    if (before <= 0) {
        return before;
    }
    PyObject *live_until = PyObject_GetAttr(self->near, self->names[0]);
    if (live_until == NULL) {
        return -1;
    }
    before = is_before(now, live_until);
    Py_DECREF(live_until);
    return before;
}

/* Counts a hit: 0, or -1 with an exception. */
static int
count_hit(NearReads *self)
{
    PyObject *hits = PyObject_GetAttr(self->near, self->names[1]);
    if (hits == NULL) {
        return -1;
    }
    PyObject *one = PyLong_FromLong(1);
    PyObject *more = one == NULL ? NULL : PyNumber_Add(hits, one);
    int failed = more == NULL || PyObject_SetAttr(self->near, self->names[1], more) < 0;
    Py_XDECREF(more);
    Py_XDECREF(one);
    Py_DECREF(hits);
    return failed ? -1 : 0;
}

/* The value of a copy that may be served; NULL without an exception if it may not. */
static PyObject *
served(NearReads *self, PyObject *copy)
{
    int may = may_be_served(self, copy);
    if (may <= 0) {
        return NULL;
    }
    PyObject *value = Py_NewRef(PyList_GET_ITEM(copy, VALUE)), *record = Py_NewRef(PyList_GET_ITEM(copy, RECORD));
    if (PyList_SetItem(copy, USED, Py_NewRef(Py_True)) < 0 || count_hit(self) < 0) {
        Py_CLEAR(value);
    }
    else if (record != Py_None) {
        Py_SETREF(value, PyObject_CallOneArg(self->decode, record));
    }
    Py_DECREF(record);
    return value;
}

/* The value of the key's copy in the table; NULL without an exception if there is none that may be served. */
static PyObject *
value_in_table(NearReads *self, PyObject *key)
{
    PyObject *copy = PyDict_GetItemWithError(self->found, key), *value = NULL;
    if (copy != NULL && PyList_CheckExact(copy)) {
        Py_INCREF(copy);
        value = served(self, copy);
        Py_DECREF(copy);
    }
    if (value == NULL && PyErr_Occurred() &&
        (PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_KeyError))) {
        PyErr_Clear(); /* no key can be that, or its value has no codec any more */
    }
    return value;
}

static PyObject *
near_call(PyObject *callable, PyObject *const *given, size_t flags, PyObject *names)
{
    NearReads *self = (NearReads *)callable;
    if (PyVectorcall_NARGS(flags) != 1 || (names != NULL && PyTuple_GET_SIZE(names) != 0)) {
        PyErr_SetString(PyExc_TypeError, "takes one key");
        return NULL;
    }
    while (PyDict_GET_SIZE(self->entries) > 0) {
        PyObject *value = value_in_table(self, given[0]);
        if (value != NULL || PyErr_Occurred()) {
            return value;
        }
        PyObject *another = PyObject_CallOneArg(self->find, given[0]);
        if (another == NULL) {
            return NULL;
        }
        bool is_another = another == Py_True;
        Py_DECREF(another);
        if (!is_another) {
            break;
        }
    }
    return Py_NewRef(self->missing);
}

static int
near_clear(NearReads *self)
{
    Py_CLEAR(self->found);
    Py_CLEAR(self->near);
    Py_CLEAR(self->entries);
    Py_CLEAR(self->clock.call);
    Py_CLEAR(self->decode);
    Py_CLEAR(self->find);
    Py_CLEAR(self->missing);
    for (int i = 0; i < 2; i++) {
        Py_CLEAR(self->names[i]);
    }
    return 0;
}

static int
near_traverse(NearReads *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->found);
    Py_VISIT(self->near);
    Py_VISIT(self->entries);
    Py_VISIT(self->clock.call);
    Py_VISIT(self->decode);
    Py_VISIT(self->find);
    Py_VISIT(self->missing);
    return 0;
}

static void
near_dealloc(NearReads *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    near_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* NearReads(found, near, entries, clock, decode, find, missing) */
static PyObject *
near_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static const char *const names[2] = {"live_until", "hits"};
    PyObject *found, *near, *entries, *clock, *decode, *find, *missing;
    if (!PyArg_ParseTuple(arguments, "O!OO!OOOO:NearReads", &PyDict_Type, &found, &near, &PyDict_Type, &entries,
                          &clock, &decode, &find, &missing)) {
        return NULL;
    }
    NearReads *self = (NearReads *)type->tp_alloc(type, 0);
    if (self == NULL || !clock_set(&self->clock, clock)) {
        Py_XDECREF(self);
        return NULL;
    }
    self->call = near_call;
    self->found = Py_NewRef(found);
    self->near = Py_NewRef(near);
    self->entries = Py_NewRef(entries);
    self->decode = Py_NewRef(decode);
    self->find = Py_NewRef(find);
    self->missing = Py_NewRef(missing);
    for (int i = 0; i < 2; i++) {
        self->names[i] = PyUnicode_InternFromString(names[i]);
        if (self->names[i] == NULL) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

static PyMemberDef near_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(NearReads, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot near_slots[] = {
    {Py_tp_new, near_new},
    {Py_tp_dealloc, near_dealloc},
    {Py_tp_traverse, near_traverse},
    {Py_tp_clear, near_clear},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, near_members},
    {0, NULL},
};

PyType_Spec near_spec = {
    .name = "meshcache._native._compiled.NearReads",
    .basicsize = sizeof(NearReads),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = near_slots,
};
