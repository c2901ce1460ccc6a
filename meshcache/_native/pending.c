/* What tasks wait for on the fast path: one call takes a key in, and one call tells all who wait for a message.
 *
 * meshcache/client/aio/pending.py has the theory, and the twins in Python, which are the specification. To a task, a
 * Pending is a future: it has what asyncio's tasks ask of one that is not their own (`_asyncio_future_blocking`,
 * `get_loop`, `add_done_callback`, `result`, `cancel`), and no more than one can wait for it.
 *
 * Python code may run wherever something is called or let go of, and may then do anything to the lists that are walked
 * through here: so what is used after that is held, and lists are looked at anew. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>
#include <structmember.h>

#include "client.h"
#include "clock.h"
#include "pending.h"

enum { ADDRESSES_MAX = 1024 };

static void
free_object(PyObject *self, inquiry clear)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* loop.call_soon(callback, argument), in a context or in a copy of the present one. */
static bool
call_soon(PyObject *loop, PyObject *callback, PyObject *argument, PyObject *context)
{
    PyObject *method = PyObject_GetAttrString(loop, "call_soon");
    PyObject *names = context == NULL ? NULL : Py_BuildValue("(s)", "context"), *handle = NULL;
    if (method != NULL && (names != NULL || context == NULL)) {
        PyObject *given[3] = {callback, argument, context};
        handle = PyObject_Vectorcall(method, given, 2, names);
    }
    Py_XDECREF(handle);
    Py_XDECREF(names);
    Py_XDECREF(method);
    return handle != NULL;
}

/* ---- Pending */

typedef enum { WAITING, TOLD, CANCELLED } Stage;

typedef struct {
    PyObject_HEAD
    PyObject *loop;
    PyObject *attempt;
    PyObject *key;     /* None if the attempt has it */
    PyObject *answer;  /* or, if it was cancelled, the message of that; NULL: there is none */
    PyObject *waiter;  /* what to call when there is an answer, in `context`; NULL: nobody waits */
    PyObject *context;
    double started;
    Stage stage;
    char blocking;     /* for the task: whether this was given to it by "await" */
} Pending;

static int
pending_clear(Pending *self)
{
    Py_CLEAR(self->loop);
    Py_CLEAR(self->attempt);
    Py_CLEAR(self->key);
    Py_CLEAR(self->answer);
    Py_CLEAR(self->waiter);
    Py_CLEAR(self->context);
    return 0;
}

static int
pending_traverse(Pending *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->attempt);
    Py_VISIT(self->key);
    Py_VISIT(self->answer);
    Py_VISIT(self->waiter);
    Py_VISIT(self->context);
    return 0;
}

static void
pending_dealloc(PyObject *self)
{
    free_object(self, (inquiry)pending_clear);
}

static bool
is_pending(PyObject *object)
{
    return Py_TYPE(object)->tp_dealloc == pending_dealloc;
}

static PyObject *
pending_made(PyTypeObject *type, PyObject *loop, PyObject *attempt, PyObject *key, double started)
{
    Pending *self = (Pending *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->loop = Py_NewRef(loop);
        self->attempt = Py_NewRef(attempt);
        self->key = Py_NewRef(key);
        self->started = started;
    }
    return (PyObject *)self;
}

/* Pending(loop, attempt, key, started) */
static PyObject *
pending_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    PyObject *loop, *attempt, *key;
    double started;
    if (!PyArg_ParseTuple(arguments, "OOOd:Pending", &loop, &attempt, &key, &started)) {
        return NULL;
    }
    return pending_made(type, loop, attempt, key, started);
}

static PyObject *
pending_get_loop(Pending *self, PyObject *nothing)
{
    return Py_NewRef(self->loop);
}

static PyObject *
pending_done(Pending *self, PyObject *nothing)
{
    return PyBool_FromLong(self->stage != WAITING);
}

/* Raises an error of asyncio, which is not imported before somebody has used it. */
static void
raise_of_asyncio(const char *name, PyObject *argument)
{
    PyObject *module = PyImport_ImportModule("asyncio");
    PyObject *kind = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    if (kind != NULL && argument == NULL) {
        PyErr_SetNone(kind);
    }
    else if (kind != NULL) {
        PyErr_SetObject(kind, argument);
    }
    Py_XDECREF(kind);
    Py_XDECREF(module);
}

static PyObject *
pending_result(Pending *self, PyObject *nothing)
{
    if (self->stage == TOLD) {
        return Py_NewRef(self->answer);
    }
    if (self->stage == CANCELLED) {
        raise_of_asyncio("CancelledError", self->answer);
        return NULL;
    }
    PyObject *why = PyUnicode_FromString("there is no answer yet");
    if (why != NULL) {
        raise_of_asyncio("InvalidStateError", why);
        Py_DECREF(why);
    }
    return NULL;
}

/* Has the one who waits called by the loop. */
static bool
call_waiter_soon(Pending *self)
{
    PyObject *waiter = self->waiter, *context = self->context;
    self->waiter = self->context = NULL;
    bool called = waiter == NULL || call_soon(self->loop, waiter, (PyObject *)self, context);
    Py_XDECREF(waiter);
    Py_XDECREF(context);
    return called;
}

static PyObject *
pending_cancel(Pending *self, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"msg", NULL};
    PyObject *message = Py_None;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "|O:cancel", names, &message)) {
        return NULL;
    }
    if (self->stage != WAITING) {
        Py_RETURN_FALSE;
    }
    self->stage = CANCELLED;
    self->answer = message == Py_None ? NULL : Py_NewRef(message);
    if (!call_waiter_soon(self)) {
        return NULL;
    }
    Py_RETURN_TRUE;
}

/* pending.add_done_callback(callback, *, context=None) */
static PyObject *
pending_add_done_callback(Pending *self, PyObject *const *given, Py_ssize_t count, PyObject *names)
{
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (count != 1 || named > 1 ||
        (named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "context") != 0)) {
        PyErr_SetString(PyExc_TypeError, "takes a callback and a context");
        return NULL;
    }
    PyObject *callback = given[0], *context = named == 1 ? given[1] : Py_None;
    if (self->waiter != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "somebody waits for it already");
        return NULL;
    }
    PyObject *kept = context == Py_None ? PyContext_CopyCurrent() : Py_NewRef(context);
    if (kept == NULL) {
        return NULL;
    }
    self->waiter = Py_NewRef(callback);
    self->context = kept;
    if (self->stage != WAITING && !call_waiter_soon(self)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* "await": gives itself to the task as long as there is no answer; then it comes to that. */
static PySendResult
pending_send(PyObject *object, PyObject *nothing, PyObject **result)
{
    Pending *self = (Pending *)object;
    if (self->stage == WAITING) {
        self->blocking = true;
        *result = Py_NewRef(object);
        return PYGEN_NEXT;
    }
    *result = pending_result(self, NULL);
    return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

static PyObject *
pending_next(PyObject *self)
{
    PyObject *result;
    PySendResult how = pending_send(self, NULL, &result);
    if (how != PYGEN_RETURN) {
        return result;
    }
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result); /* the result may be a tuple, or an exception */
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
    Py_DECREF(result);
    return NULL;
}

/* Gives it its answer, unless it was cancelled. */
static void
pending_tell(Pending *self, PyObject *answer)
{
    if (self->stage == WAITING) {
        self->stage = TOLD;
        self->answer = Py_NewRef(answer);
    }
}

/* Has the one who waits go on. */
static bool
pending_wake(Pending *self)
{
    PyObject *waiter = self->waiter, *context = self->context, *done = NULL;
    if (waiter == NULL) {
        return true;
    }
    self->waiter = self->context = NULL;
    if (PyContext_Enter(context) == 0) {
        done = PyObject_CallOneArg(waiter, (PyObject *)self);
        if (PyContext_Exit(context) < 0) {
            Py_CLEAR(done);
        }
    }
    Py_XDECREF(done);
    Py_DECREF(waiter);
    Py_DECREF(context);
    return done != NULL;
}

static PyMethodDef pending_methods[] = {
    {"get_loop", (PyCFunction)pending_get_loop, METH_NOARGS, NULL},
    {"done", (PyCFunction)pending_done, METH_NOARGS, NULL},
    {"result", (PyCFunction)pending_result, METH_NOARGS, NULL},
    {"cancel", (PyCFunction)(void (*)(void))pending_cancel, METH_VARARGS | METH_KEYWORDS, NULL},
    {"add_done_callback", (PyCFunction)(void (*)(void))pending_add_done_callback, METH_FASTCALL | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef pending_members[] = {
    {"_asyncio_future_blocking", T_BOOL, offsetof(Pending, blocking), 0, NULL},
    {"attempt", T_OBJECT, offsetof(Pending, attempt), READONLY, NULL},
    {"key", T_OBJECT, offsetof(Pending, key), READONLY, NULL},
    {"started", T_DOUBLE, offsetof(Pending, started), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot pending_slots[] = {
    {Py_tp_new, pending_new},
    {Py_tp_dealloc, pending_dealloc},
    {Py_tp_traverse, pending_traverse},
    {Py_tp_clear, pending_clear},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, pending_send},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, pending_next},
    {Py_tp_methods, pending_methods},
    {Py_tp_members, pending_members},
    {0, NULL},
};

PyType_Spec pending_spec = {
    .name = "meshcache._native._compiled.Pending",
    .basicsize = sizeof(Pending),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = pending_slots,
};

/* ---- Gathering */

typedef struct {
    PyObject_HEAD
    PyObject *loop;
    PyObject *keys;    /* list */
    PyObject *waiting; /* list of Pending */
    char is_open;
} Gathering;

static int
gathering_clear(Gathering *self)
{
    Py_CLEAR(self->loop);
    Py_CLEAR(self->keys);
    Py_CLEAR(self->waiting);
    return 0;
}

static int
gathering_traverse(Gathering *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->keys);
    Py_VISIT(self->waiting);
    return 0;
}

static void
gathering_dealloc(PyObject *self)
{
    free_object(self, (inquiry)gathering_clear);
}

/* Gathering(loop) */
static PyObject *
gathering_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    PyObject *loop;
    if (!PyArg_ParseTuple(arguments, "O:Gathering", &loop)) {
        return NULL;
    }
    Gathering *self = (Gathering *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->loop = Py_NewRef(loop);
    self->is_open = true;
    self->keys = PyList_New(0);
    self->waiting = PyList_New(0);
    if (self->keys == NULL || self->waiting == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

/* Takes a list out, and leaves an empty one. */
static PyObject *
taken_out(PyObject **list)
{
    PyObject *empty = PyList_New(0), *taken = empty == NULL ? NULL : *list;
    if (empty != NULL) {
        *list = empty;
    }
    return taken;
}

/* gathering.tell(answers): whom to wake */
static PyObject *
gathering_tell(PyObject *object, PyObject *answers)
{
    Gathering *self = (Gathering *)object;
    Py_ssize_t count = PyList_GET_SIZE(self->waiting);
    if (!PyList_CheckExact(answers) || PyList_GET_SIZE(answers) != count) {
        PyErr_SetString(PyExc_ValueError, "takes an answer for each that waits");
        return NULL;
    }
    PyObject *waiting = taken_out(&self->waiting), *keys = taken_out(&self->keys);
    if (waiting == NULL || keys == NULL) {
        Py_XDECREF(keys);
        Py_XDECREF(waiting);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) { /* nothing is let go of here, and so the lists stay as they are */
        PyObject *pending = PyList_GET_ITEM(waiting, i);
        if (is_pending(pending)) {
            pending_tell((Pending *)pending, PyList_GET_ITEM(answers, i));
        }
    }
    Py_DECREF(keys);
    return waiting;
}

static PyMethodDef gathering_methods[] = {
    {"tell", gathering_tell, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef gathering_members[] = {
    {"is_open", T_BOOL, offsetof(Gathering, is_open), 0, NULL},
    {"keys", T_OBJECT, offsetof(Gathering, keys), READONLY, NULL},
    {"loop", T_OBJECT, offsetof(Gathering, loop), READONLY, NULL},
    {"waiting", T_OBJECT, offsetof(Gathering, waiting), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot gathering_slots[] = {
    {Py_tp_new, gathering_new},
    {Py_tp_dealloc, gathering_dealloc},
    {Py_tp_traverse, gathering_traverse},
    {Py_tp_clear, gathering_clear},
    {Py_tp_methods, gathering_methods},
    {Py_tp_members, gathering_members},
    {0, NULL},
};

PyType_Spec gathering_spec = {
    .name = "meshcache._native._compiled.Gathering",
    .basicsize = sizeof(Gathering),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = gathering_slots,
};

/* wake(waiting) */
static PyObject *
wake(PyObject *module, PyObject *waiting)
{
    if (!PyList_CheckExact(waiting)) {
        PyErr_SetString(PyExc_TypeError, "takes a list");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(waiting); i++) {
        PyObject *pending = Py_NewRef(PyList_GET_ITEM(waiting, i));
        bool woken = !is_pending(pending) || pending_wake((Pending *)pending);
        Py_DECREF(pending);
        if (!woken) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

/* ---- Gets */

enum { IS_OPEN, DUE, FIRST, HOT, NAMES };

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *copy_of, *missing, *fast, *routing, *prefix, *attempt, *begin, *full, *running_loop;
    PyObject *open;           /* dict: the latest gathering of each address */
    PyObject *pending_type, *gathering_type;
    PyObject *names[NAMES];   /* is_open, due, first, hot */
    Clock clock;
    Py_ssize_t callers_max, keys_max;
} Gets;

static int
gets_clear(Gets *self)
{
    Py_CLEAR(self->copy_of);
    Py_CLEAR(self->missing);
    Py_CLEAR(self->fast);
    Py_CLEAR(self->routing);
    Py_CLEAR(self->prefix);
    Py_CLEAR(self->attempt);
    Py_CLEAR(self->begin);
    Py_CLEAR(self->full);
    Py_CLEAR(self->running_loop);
    Py_CLEAR(self->open);
    Py_CLEAR(self->pending_type);
    Py_CLEAR(self->gathering_type);
    Py_CLEAR(self->clock.call);
    for (int i = 0; i < NAMES; i++) {
        Py_CLEAR(self->names[i]);
    }
    return 0;
}

static int
gets_traverse(Gets *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->copy_of);
    Py_VISIT(self->missing);
    Py_VISIT(self->fast);
    Py_VISIT(self->routing);
    Py_VISIT(self->prefix);
    Py_VISIT(self->attempt);
    Py_VISIT(self->begin);
    Py_VISIT(self->full);
    Py_VISIT(self->running_loop);
    Py_VISIT(self->open);
    Py_VISIT(self->pending_type);
    Py_VISIT(self->gathering_type);
    Py_VISIT(self->clock.call);
    return 0;
}

static void
gets_dealloc(PyObject *self)
{
    free_object(self, (inquiry)gets_clear);
}

/* Whether the fast path is open, and nothing is due in the routing. */
static Outcome
is_usual(Gets *self, double started)
{
    PyObject *open = PyObject_GetAttr(self->fast, self->names[IS_OPEN]);
    PyObject *due = open == NULL ? NULL : PyObject_GetAttr(self->routing, self->names[DUE]);
    double until = due == NULL ? -1.0 : PyFloat_AsDouble(due);
    Outcome outcome = until == -1.0 && PyErr_Occurred() ? FAILED : open == Py_True && started < until ? DONE : UNUSUAL;
    Py_XDECREF(due);
    Py_XDECREF(open);
    return outcome;
}

/* The address to ask for a key; a new reference. */
static Outcome
address_of(Gets *self, PyObject *key, PyObject **address)
{
    PyObject *first = PyObject_GetAttr(self->routing, self->names[FIRST]);
    PyObject *hot = first == NULL ? NULL : PyObject_GetAttr(self->routing, self->names[HOT]);
    Outcome outcome = hot == NULL ? FAILED : find_owner(self->prefix, key, first, hot, address);
    if (outcome == DONE) {
        Py_INCREF(*address);
    }
    Py_XDECREF(hot);
    Py_XDECREF(first);
    return outcome;
}

static bool
can_be_joined(const Gets *self, const Gathering *gathering, PyObject *loop)
{
    return gathering->is_open && gathering->loop == loop && PyList_GET_SIZE(gathering->waiting) < self->callers_max &&
           PyList_GET_SIZE(gathering->keys) < self->keys_max;
}

/* Begins a gathering, or has the one told that others have begun. */
static Outcome
begin(Gets *self, PyObject *address, double started, PyObject **found)
{
    PyObject *begun = PyObject_CallFunction(self->begin, "OOd", self->attempt, address, started);
    if (begun == NULL) {
        return FAILED;
    }
    if ((PyObject *)Py_TYPE(begun) != self->gathering_type) {
        Py_DECREF(begun);
        return UNUSUAL;
    }
    if (PyDict_GET_SIZE(self->open) >= ADDRESSES_MAX) {
        PyDict_Clear(self->open);
    }
    *found = begun;
    return PyDict_SetItem(self->open, address, begun) < 0 ? FAILED : DONE;
}

/* The gathering to join; a new reference, also if this fails. */
static Outcome
gathering_at(Gets *self, PyObject *address, PyObject *loop, double started, PyObject **found)
{
    PyObject *known = PyDict_GetItemWithError(self->open, address);
    if (known != NULL && can_be_joined(self, (Gathering *)known, loop)) {
        *found = Py_NewRef(known);
        return DONE;
    }
    return known == NULL && PyErr_Occurred() ? FAILED : begin(self, address, started, found);
}

/* Adds a key to a gathering; returns what it will come to. */
static PyObject *
join(Gets *self, Gathering *gathering, PyObject *key, PyObject *address, double started)
{
    PyTypeObject *type = (PyTypeObject *)self->pending_type;
    PyObject *pending = pending_made(type, gathering->loop, self->attempt, key, started);
    if (pending == NULL || PyList_Append(gathering->keys, key) < 0) {
        Py_XDECREF(pending);
        return NULL;
    }
    if (PyList_Append(gathering->waiting, pending) < 0) {
        Py_DECREF(pending);
        Py_ssize_t count = PyList_GET_SIZE(gathering->keys);
        PyList_SetSlice(gathering->keys, count - 1, count, NULL);
        return NULL;
    }
    if (PyList_GET_SIZE(gathering->waiting) == self->callers_max) {
        PyObject *done = PyObject_CallOneArg(self->full, address);
        Py_XDECREF(done);
        if (done == NULL) {
            Py_CLEAR(pending);
        }
    }
    return pending;
}

/* Has a key asked for at an address. */
static PyObject *
ask_at(Gets *self, PyObject *key, PyObject *address, double started)
{
    PyObject *loop = PyObject_CallNoArgs(self->running_loop), *gathering = NULL, *pending = NULL;
    Outcome outcome = loop == NULL ? FAILED : gathering_at(self, address, loop, started, &gathering);
    if (outcome == DONE) {
        pending = join(self, (Gathering *)gathering, key, address, started);
    }
    Py_XDECREF(gathering);
    Py_XDECREF(loop);
    return outcome == UNUSUAL ? Py_NewRef(self->missing) : pending;
}

/* Has a key asked for of which no copy is kept. */
static PyObject *
ask_for(Gets *self, PyObject *key)
{
    double started = clock_read(&self->clock);
    if (started == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *address = NULL;
    Outcome outcome = is_usual(self, started);
    if (outcome == DONE) {
        outcome = address_of(self, key, &address);
    }
    if (outcome != DONE) {
        return outcome == FAILED ? NULL : Py_NewRef(self->missing);
    }
    PyObject *pending = ask_at(self, key, address, started);
    Py_DECREF(address);
    return pending;
}

static PyObject *
gets_call(PyObject *callable, PyObject *const *given, size_t flags, PyObject *names)
{
    Gets *self = (Gets *)callable;
    if (PyVectorcall_NARGS(flags) != 1 || (names != NULL && PyTuple_GET_SIZE(names) != 0)) {
        PyErr_SetString(PyExc_TypeError, "takes one key");
        return NULL;
    }
    PyObject *value = PyObject_CallOneArg(self->copy_of, given[0]);
    if (value != self->missing) {
        return value;
    }
    Py_DECREF(value);
    return ask_for(self, given[0]);
}

/* Looks up what is needed besides the arguments. */
static bool
gets_prepare(Gets *self, PyTypeObject *type)
{
    static const char *const names[NAMES] = {"is_open", "due", "first", "hot"};
    PyObject *module = PyType_GetModule(type), *clock = PyObject_GetAttrString(self->routing, "clock");
    bool is_done = module != NULL && clock != NULL && clock_set(&self->clock, clock);
    Py_XDECREF(clock);
    if (!is_done) {
        return false;
    }
    self->open = PyDict_New();
    self->pending_type = PyObject_GetAttrString(module, "Pending");
    self->gathering_type = PyObject_GetAttrString(module, "Gathering");
    for (int i = 0; i < NAMES && is_done; i++) {
        self->names[i] = PyUnicode_InternFromString(names[i]);
        is_done = self->names[i] != NULL;
    }
    return is_done && self->open != NULL && self->pending_type != NULL && self->gathering_type != NULL;
}

/* Gets(copy_of, missing, fast, routing, prefix, attempt, begin, full, (callers_max, keys_max), running_loop) */
static PyObject *
gets_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    PyObject *copy_of, *missing, *fast, *routing, *prefix, *attempt, *begin, *full, *running_loop;
    Py_ssize_t callers_max, keys_max;
    if (!PyArg_ParseTuple(arguments, "OOOOSOOO(nn)O:Gets", &copy_of, &missing, &fast, &routing, &prefix, &attempt,
                          &begin, &full, &callers_max, &keys_max, &running_loop)) {
        return NULL;
    }
    Gets *self = (Gets *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->call = gets_call;
    self->copy_of = Py_NewRef(copy_of);
    self->missing = Py_NewRef(missing);
    self->fast = Py_NewRef(fast);
    self->routing = Py_NewRef(routing);
    self->prefix = Py_NewRef(prefix);
    self->attempt = Py_NewRef(attempt);
    self->begin = Py_NewRef(begin);
    self->full = Py_NewRef(full);
    self->running_loop = Py_NewRef(running_loop);
    self->callers_max = callers_max;
    self->keys_max = keys_max;
    if (!gets_prepare(self, type)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyMemberDef gets_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Gets, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot gets_slots[] = {
    {Py_tp_new, gets_new},
    {Py_tp_dealloc, gets_dealloc},
    {Py_tp_traverse, gets_traverse},
    {Py_tp_clear, gets_clear},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, gets_members},
    {0, NULL},
};

PyType_Spec gets_spec = {
    .name = "meshcache._native._compiled.Gets",
    .basicsize = sizeof(Gets),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = gets_slots,
};

static PyMethodDef functions[] = {
    {"wake", wake, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int
pending_exec(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
