/* The usual SET, at the node that the client asked. What another owner does for it is in replica.c.
 *
 * serve_set         stamps, stores here, and asks the other owners of each key to store it
 * serve_write_reply takes what they answer: when all have stored it, announces the keys and answers the client
 *
 * requests.py and writes.py are the specification. Usual is that the write is done when all owners have it, that
 * all of them can be asked, and that they work with the same ring. A SET that waits is an object of Python, the part
 * ``waits`` makes it: see usual_writes.py, which knows what to do with whatever else happens to it. It is entered in the
 * same tables as all operations; here only the answers are counted that say "stored".
 *
 * The keys of a SET are split into groups with the same owners, as there. In a view, equal sets of owners are one
 * object. */

#include "serve.h"
#include "usual.h"

#define COUNTED_BYTES_MIN 4096
#define GROUPS_MAX 16
#define ASKS_MAX 32
#define DEADLINE_S_MIN 0.2  /* as breakers.FAIR_S; and the loop looks at the timers more often than that */
#define DEADLINE_S_MAX 60.0 /* as admission.py has it */
#define ENDED_BY_S 1.0      /* as requests.py has it */

/* Keys with the same owners. */
typedef struct {
    PyObject *set;    /* of the owners: one object, whatever their order */
    PyObject *owners; /* in the order of the first key */
    uint32_t count;
} Group;

/* How a SET is to be done. */
typedef struct {
    PyObject *sets;   /* by slot, the set of the owners */
    PyObject *owners; /* by slot, the owners in their order; the two keep them all alive */
    Group groups[GROUPS_MAX];
    uint32_t group_count;
    uint32_t ask_count; /* of others, for all groups */
    uint8_t group_of[SET_KEYS_MAX];
    int64_t wall_ms;
    double now;
    double deadline;
} Plan;

/* Whom to ask for what. */
typedef struct {
    PyObject *node_id;
    PyObject *link;
    uint32_t group;
} Ask;

/* -- planning -------------------------------------------------------------------------------------------------------- */

/* Return how many owners a level means, as quorum.py has it. */
static int64_t
needed_of(const Usual *self, int64_t level, int64_t owners)
{
    if (level > 0) {
        return level;
    }
    if (level == LEVEL_ONE) {
        return 1;
    }
    if (level == LEVEL_QUORUM) {
        return owners / 2 + 1;
    }
    return level == LEVEL_ALL ? owners : Py_MIN(self->write_quorum, owners);
}

/* Find the group of a slot's owners, or begin it; -1: there are too many, or not all of them must store it. */
static int
group_of(const Usual *self, Plan *plan, const Request *set, Py_ssize_t slot)
{
    PyObject *all = PyList_GET_ITEM(plan->sets, slot), *owners = PyList_GET_ITEM(plan->owners, slot);
    for (uint32_t i = 0; i < plan->group_count; i++) {
        if (plan->groups[i].set == all) {
            return (int)i;
        }
    }
    Py_ssize_t count = PyTuple_CheckExact(owners) ? PyTuple_GET_SIZE(owners) : 0;
    if (plan->group_count == GROUPS_MAX || count == 0 || needed_of(self, set->w, count) != count) {
        return -1;
    }
    plan->ask_count += (uint32_t)count - 1;
    plan->groups[plan->group_count] = (Group){all, owners, 0};
    return plan->ask_count > ASKS_MAX ? -1 : (int)plan->group_count++;
}

/* Split the keys, all of which this node owns, by their owners. */
static Outcome
split(Usual *self, Plan *plan, const Request *set)
{
    PyObject *ring = part_attribute(self, VIEW, N_RING);
    plan->sets = part_attribute(self, VIEW, N_OWNER_SETS);
    plan->owners = ring == NULL ? NULL : attribute(self, ring, N_OWNERS);
    Py_XDECREF(ring);
    if (plan->sets == NULL || plan->owners == NULL) {
        return FAILED;
    }
    Py_ssize_t slots = PyList_CheckExact(plan->sets) && PyList_CheckExact(plan->owners) ? PyList_GET_SIZE(plan->sets) : 0;
    if (slots == 0 || PyList_GET_SIZE(plan->owners) != slots) {
        return UNUSUAL;
    }
    size_t mask = (size_t)slots - 1;
    for (uint32_t i = 0; i < set->count; i++) {
        uint32_t hash = crc32_of((const char *)set->keys[i].data, set->keys[i].size);
        int group = group_of(self, plan, set, (Py_ssize_t)(hash & mask));
        if (group < 0) {
            return UNUSUAL;
        }
        plan->group_of[i] = (uint8_t)group;
        plan->groups[group].count++;
    }
    return DONE;
}

/* Find out until when the other owners may take, if there are any; too short a time is for Python to watch. */
static Outcome
set_times(Usual *self, Plan *plan, const Request *set)
{
    PyObject *now = part_attribute(self, INSTANT, N_NOW);
    plan->now = now == NULL ? -1 : PyFloat_AsDouble(now);
    Py_XDECREF(now);
    plan->wall_ms = PyErr_Occurred() ? -1 : number_of(self, self->parts[INSTANT], N_WALL_MS);
    if (PyErr_Occurred()) {
        return FAILED;
    }
    double left_s = (double)(set->deadline_ms - plan->wall_ms) / 1000;
    plan->deadline = plan->now + Py_MIN(left_s, DEADLINE_S_MAX);
    return plan->ask_count > 0 && plan->deadline - plan->now < DEADLINE_S_MIN ? UNUSUAL : DONE;
}

static Outcome
make_plan(Usual *self, Plan *plan, const Request *set)
{
    if (set->w > self->replicas || set->w < LEVEL_ALL) {
        return UNUSUAL;
    }
    Outcome outcome = is_settled(self);
    if (outcome == DONE) {
        outcome = all_in(self, set, N_OWNED);
    }
    if (outcome == DONE) {
        outcome = split(self, plan, set);
    }
    return outcome == DONE ? set_times(self, plan, set) : outcome;
}

/* -- what is looked at besides --------------------------------------------------------------------------------------- */

/* Tell whether a SET has so many bytes that they are counted while it is under way. */
static bool
is_counted(const Request *set)
{
    return (set->count == 1 ? set->size - CONTENT_FLAG_BYTES : set->size) >= COUNTED_BYTES_MIN;
}

/* Tell whether a SET may be run at once and by itself: it is not too large, nor are there too many bytes under way. */
static Outcome
is_small(Usual *self, const Request *set)
{
    if (set->size_max - CONTENT_FLAG_BYTES > self->value_bytes_max) {
        return UNUSUAL;
    }
    if (!is_counted(set)) {
        return DONE;
    }
    int64_t under_way = number_of(self, self->parts[BACKLOG], N_BYTES);
    if (under_way == -1 && PyErr_Occurred()) {
        return FAILED;
    }
    return under_way == 0 ? DONE : UNUSUAL;
}

static Outcome
are_distinct(Request *request)
{
    if (request->count == 1) {
        return DONE;
    }
    PyObject *keys = keys_of(request), *set = keys == NULL ? NULL : PySet_New(keys);
    if (set == NULL) {
        return FAILED;
    }
    Outcome outcome = PySet_GET_SIZE(set) == request->count ? DONE : UNUSUAL;
    Py_DECREF(set);
    return outcome;
}

/* -- storing --------------------------------------------------------------------------------------------------------- */

/* Make records of the contents. */
static PyObject *
stamped(const char *stamp, const Request *set)
{
    PyObject *records = PyList_New(set->count);
    for (uint32_t i = 0; records != NULL && i < set->count; i++) {
        const Slice *content = &set->contents[i];
        PyObject *record = PyBytes_FromStringAndSize(NULL, STAMP_BYTES + (Py_ssize_t)content->size);
        if (record == NULL) {
            Py_CLEAR(records);
            break;
        }
        memcpy(PyBytes_AS_STRING(record), stamp, STAMP_BYTES);
        memcpy(PyBytes_AS_STRING(record) + STAMP_BYTES, content->data, content->size);
        PyList_SET_ITEM(records, i, record);
    }
    return records;
}

/* Return what a list of all keys, or of what belongs to them, has of one group. */
static PyObject *
of_group(const Plan *plan, uint32_t group, PyObject *all)
{
    if (plan->group_count == 1) {
        return Py_NewRef(all);
    }
    PyObject *some = PyList_New(plan->groups[group].count);
    Py_ssize_t place = 0;
    for (Py_ssize_t i = 0; some != NULL && i < PyList_GET_SIZE(all); i++) {
        if (plan->group_of[i] == group) {
            PyList_SET_ITEM(some, place++, Py_NewRef(PyList_GET_ITEM(all, i)));
        }
    }
    return some;
}

/* Have Python store the records of one group: return what Replica.take_write does. */
static PyObject *
store_by_objects(Usual *self, const Plan *plan, uint32_t group, PyObject *keys, PyObject *records)
{
    PyObject *own_keys = of_group(plan, group, keys), *own_records = of_group(plan, group, records);
    PyObject *outcome = take_write(self, own_keys, own_records);
    Py_XDECREF(own_keys);
    Py_XDECREF(own_records);
    return outcome;
}

/* Store the records of one group straight in the native store; the same is returned. */
static PyObject *
store_group(Usual *self, const Plan *plan, uint32_t group, const Request *set, PyObject *records)
{
    Pair pairs[SET_KEYS_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < set->count; i++) {
        if (plan->group_of[i] == group) {
            PyObject *record = PyList_GET_ITEM(records, i);
            pairs[count++] = (Pair){&set->keys[i], {PyBytes_AS_STRING(record), PyBytes_GET_SIZE(record), record}};
        }
    }
    return merge_here(self->store, pairs, count, plan->wall_ms);
}

/* Store the records here, group by group: return what came of each. If any is to be stamped once more, ``newer`` is set,
 * and the groups after it are left to Python, so that all is stored in the same order. */
static PyObject *
store_here(Usual *self, const Plan *plan, Request *set, PyObject *records, bool *newer)
{
    Outcome only_stored = is_only_to_be_stored(self);
    PyObject *stored = only_stored == FAILED ? NULL : PyList_New(0);
    for (uint32_t group = 0; stored != NULL && group < plan->group_count && !*newer; group++) {
        PyObject *outcome = only_stored == DONE ? store_group(self, plan, group, set, records)
                                                : store_by_objects(self, plan, group, keys_of(set), records);
        if (outcome == NULL || PyList_Append(stored, outcome)) {
            Py_CLEAR(stored);
        }
        else {
            *newer = PyList_GET_SIZE(PyTuple_GET_ITEM(outcome, 0)) > 0;
        }
        Py_XDECREF(outcome);
    }
    return stored;
}

/* -- asking the other owners ----------------------------------------------------------------------------------------- */

/* Find the links to all who are to be asked; UNUSUAL if one is missing. ``found``: how many, each of them held. */
static Outcome
find_links(Usual *self, const Plan *plan, PyObject *by_node, Ask *asks, uint32_t *found)
{
    for (uint32_t group = 0; group < plan->group_count; group++) {
        PyObject *owners = plan->groups[group].owners;
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(owners); i++) {
            PyObject *node_id = PyTuple_GET_ITEM(owners, i);
            int is_own = PyObject_RichCompareBool(node_id, self->own_id, Py_EQ);
            if (is_own) {
                if (is_own < 0) {
                    return FAILED;
                }
                continue;
            }
            PyObject *link = PyDict_CheckExact(by_node) ? PyDict_GetItemWithError(by_node, node_id) : NULL;
            if (link == NULL || *found == plan->ask_count) {
                return PyErr_Occurred() ? FAILED : UNUSUAL;
            }
            asks[(*found)++] = (Ask){node_id, Py_NewRef(link), group};
        }
    }
    return *found == plan->ask_count ? DONE : UNUSUAL;
}

/* Make the frame by which one owner is asked; ``head`` has the request's number. */
static PyObject *
write_frame(const Plan *plan, const Ask *ask, const Head *head, uint64_t boot, int64_t deadline_ms, PyObject *keys,
            PyObject *records)
{
    uint32_t count = plan->groups[ask->group].count;
    size_t view_bytes = (size_t)PyBytes_GET_SIZE(head->view);
    size_t size = 3 + size_of_uint(head->clock) + size_of_uint(head->number) + size_of_uint(boot) +
                  size_of_int(deadline_ms) + size_of_bin(view_bytes) + 1 + 2 * size_of_array(count);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(keys); i++) {
        if (plan->group_of[i] == ask->group) {
            size += size_of_bin((size_t)PyBytes_GET_SIZE(PyList_GET_ITEM(keys, i)));
            size += size_of_bin((size_t)PyBytes_GET_SIZE(PyList_GET_ITEM(records, i)));
        }
    }
    PyObject *frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (frame == NULL) {
        return NULL;
    }
    uint8_t *to = write_array((uint8_t *)PyBytes_AS_STRING(frame), 2);
    to = write_array(write_uint(to, head->clock), 8);
    to = write_uint(write_uint(write_uint(to, WRITE), head->number), boot);
    to = write_bin(write_int(to, deadline_ms), PyBytes_AS_STRING(head->view), view_bytes);
    to = write_bool(to, false);
    for (int field = 0; field < 2; field++) {
        PyObject *all = field == 0 ? keys : records;
        to = write_array(to, count);
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(all); i++) {
            if (plan->group_of[i] == ask->group) {
                PyObject *bytes = PyList_GET_ITEM(all, i);
                to = write_bin(to, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
            }
        }
    }
    return frame;
}

/* Put a frame among what is to be sent to an address; it takes the reference to the frame. */
static int
send(Usual *self, PyObject *address, PyObject *frame)
{
    PyObject *sends = frame == NULL ? NULL : part_attribute(self, OUTBOX, N_SENDS);
    int failed = sends == NULL ? -1 : append_to(sends, address, frame);
    Py_XDECREF(sends);
    Py_XDECREF(frame);
    return failed;
}

/* Have an operation wait for the answer to a request, as Pending.ask does. */
static int
await_answer(Usual *self, PyObject *operation, const Ask *ask, PyObject *number)
{
    PyObject *waiting = part_attribute(self, PENDING, N_WAITING), *group = PyLong_FromUnsignedLong(ask->group);
    PyObject *entry = NULL;
    if (waiting != NULL && group != NULL) {
        entry = PyTuple_Pack(4, operation, group, ask->node_id, self->parts[REPLY_KIND]);
    }
    int failed = entry == NULL ? -1 : PyObject_SetItem(waiting, number, entry);
    Py_XDECREF(waiting);
    Py_XDECREF(group);
    Py_XDECREF(entry);
    return failed;
}

/* Ask one owner, as Pending.ask_for_caller does. */
static int
ask_owner(Usual *self, const Plan *plan, const Ask *ask, const Head *head, PyObject *operation, PyObject *keys,
          PyObject *records)
{
    int failed = -1;
    PyObject *boot = attribute(self, ask->link, N_BOOT), *address = attribute(self, ask->link, N_ADDRESS);
    PyObject *number = PyLong_FromUnsignedLongLong(head->number);
    uint64_t boot_number = boot == NULL ? 0 : PyLong_AsUnsignedLongLong(boot);
    int64_t offset_ms = PyErr_Occurred() ? 0 : number_of(self, ask->link, N_OFFSET_MS);
    if (address != NULL && number != NULL && !PyErr_Occurred()) {
        int64_t deadline_ms = plan->wall_ms + (int64_t)((plan->deadline - plan->now) * 1000) + offset_ms;
        PyObject *frame = write_frame(plan, ask, head, boot_number, deadline_ms, keys, records);
        failed = await_answer(self, operation, ask, number) ||
                 note_sent(self, number, ask->node_id, boot, plan->now, plan->deadline);
        failed |= send(self, address, frame);
    }
    Py_XDECREF(boot);
    Py_XDECREF(address);
    Py_XDECREF(number);
    return failed ? -1 : 0;
}

/* Make the fields of a SET that is handed to Python. Its contents are in its records, and not given once more. */
static PyObject *
fields_of(Usual *self, Request *set)
{
    PyObject *keys = keys_of(set);
    if (keys == NULL) {
        return NULL;
    }
    return Py_BuildValue("(KKLy#LLO[])", (unsigned long long)set->number, (unsigned long long)self->boot,
                         (long long)set->deadline_ms, (const char *)set->view.data, (Py_ssize_t)set->view.size,
                         (long long)set->w, (long long)set->ttl_ms, keys);
}

/* Make the list of what Python is to know of the groups: owners, and the positions of their keys. */
static PyObject *
groups_of(const Plan *plan, uint32_t key_count)
{
    PyObject *groups = PyList_New(plan->group_count);
    for (uint32_t group = 0; groups != NULL && group < plan->group_count; group++) {
        PyObject *places = PyList_New(0), *pair = NULL;
        for (uint32_t i = 0; places != NULL && i < key_count; i++) {
            PyObject *place = plan->group_of[i] == group ? PyLong_FromUnsignedLong(i) : NULL;
            if (place != NULL && PyList_Append(places, place)) {
                Py_CLEAR(places);
            }
            Py_XDECREF(place);
        }
        if (places == NULL || PyErr_Occurred() || (pair = PyTuple_Pack(2, plan->groups[group].owners, places)) == NULL) {
            Py_CLEAR(groups);
        }
        else {
            PyList_SET_ITEM(groups, group, pair);
        }
        Py_XDECREF(places);
    }
    return groups;
}

/* Give an object an attribute; it takes the reference, NULL is an error that has its exception. */
static int
set_new(Usual *self, PyObject *of, enum name name, PyObject *value)
{
    int failed = value == NULL ? -1 : set_attribute(&self->names[name], of, value);
    Py_XDECREF(value);
    return failed;
}

/* Make the operation that waits for the answers to the requests from this number on. */
static PyObject *
operation_of(Usual *self, PyObject *origin, const Plan *plan, Request *set, PyObject *records, PyObject *kept,
             int64_t first)
{
    PyTypeObject *waits = (PyTypeObject *)self->parts[WAITS];
    PyObject *nothing = PyTuple_New(0), *operation = nothing == NULL ? NULL : waits->tp_new(waits, nothing, NULL);
    PyObject *number = PyLong_FromLongLong(first), *left = PyLong_FromUnsignedLong(plan->ask_count);
    int failed = operation == NULL || set_new(self, operation, N_REQUESTS, Py_NewRef(self->parts[GO_ON])) ||
                 set_new(self, operation, N_ORIGIN, Py_NewRef(origin)) ||
                 set_new(self, operation, N_FIELDS, fields_of(self, set)) ||
                 set_new(self, operation, N_RECORDS, Py_NewRef(records)) ||
                 set_new(self, operation, N_PLACES, groups_of(plan, set->count)) ||
                 set_new(self, operation, N_FIRST, Py_XNewRef(number)) || set_new(self, operation, N_LEFT, Py_XNewRef(left)) ||
                 set_new(self, operation, N_UNTIL, PyFloat_FromDouble(plan->deadline)) ||
                 set_new(self, operation, N_KEPT, Py_NewRef(kept));
    Py_XDECREF(nothing);
    Py_XDECREF(number);
    Py_XDECREF(left);
    if (failed) {
        Py_CLEAR(operation);
    }
    return operation;
}

/* Ask all, and keep the operation until its deadline. */
static int
ask_all(Usual *self, PyObject *origin, const Plan *plan, const Ask *asks, Request *set, PyObject *records, PyObject *kept)
{
    PyObject *pending = self->parts[PENDING], *keys = keys_of(set);
    int64_t first = number_of(self, pending, N_NUMBER) + 1;
    Head head;
    if (PyErr_Occurred() || take_head(self, 0, &head)) {
        return -1;
    }
    PyObject *operation = operation_of(self, origin, plan, set, records, kept, first);
    int failed = operation == NULL;
    for (uint32_t i = 0; i < plan->ask_count && !failed; i++) {
        head.number = (uint64_t)first + i;
        failed = ask_owner(self, plan, &asks[i], &head, operation, keys, records);
    }
    Py_DECREF(head.view);
    failed = failed || begin_operation(self, operation, plan->now, plan->deadline, first + plan->ask_count);
    Py_XDECREF(operation);
    return failed ? -1 : 0;
}

/* Hand a SET to Python that is stored here, and unusual otherwise. */
static Outcome
go_on_with_set(Usual *self, PyObject *origin, Request *set, PyObject *records, PyObject *stored, PyObject *kept)
{
    PyObject *fields = fields_of(self, set), *done = NULL;
    if (fields != NULL) {
        done = PyObject_CallMethod(self->parts[GO_ON], "go_on_with_set", "OO(OOO)", origin, fields, records, stored, kept);
    }
    Py_XDECREF(fields);
    Py_XDECREF(done);
    return done == NULL ? FAILED : WENT_ON;
}

/* Ask the other owners, if all can be asked; else Python goes on. */
static Outcome
ask_others(Usual *self, PyObject *origin, const Plan *plan, Request *set, PyObject *records, PyObject *stored, PyObject *kept)
{
    Ask asks[ASKS_MAX];
    uint32_t found = 0;
    int are_closed = is_empty(self, self->parts[BREAKERS], N_OPEN);
    PyObject *by_node = are_closed < 0 ? NULL : part_attribute(self, PEERS, N_BY_NODE);
    if (by_node == NULL) {
        return FAILED;
    }
    Outcome outcome = are_closed ? find_links(self, plan, by_node, asks, &found) : UNUSUAL;
    if (outcome == DONE) {
        outcome = ask_all(self, origin, plan, asks, set, records, kept) ? FAILED : DONE;
    }
    else if (outcome == UNUSUAL) {
        outcome = go_on_with_set(self, origin, set, records, stored, kept);
    }
    while (found > 0) {
        Py_DECREF(asks[--found].link);
    }
    Py_DECREF(by_node);
    return outcome;
}

/* -- the node that is asked ------------------------------------------------------------------------------------------ */

/* Count the bytes of a SET until it is answered, if it has many and must wait: a number for that, or 0. */
static PyObject *
take_on(Usual *self, PyObject *origin, const Plan *plan, const Request *set)
{
    if (plan->ask_count == 0 || !is_counted(set)) {
        return PyLong_FromLong(0);
    }
    long long size = set->count == 1 ? set->size - CONTENT_FLAG_BYTES : set->size;
    return PyObject_CallMethod(self->parts[BACKLOG], "begin", "OLd", origin, size, plan->deadline + ENDED_BY_S);
}

/* Do what is planned with a SET that is counted. */
static Outcome
write_records(Usual *self, PyObject *origin, const Plan *plan, Request *set, const char *stamp, PyObject *kept)
{
    bool newer = false;
    PyObject *keys = keys_of(set), *records = keys == NULL ? NULL : stamped(stamp, set);
    PyObject *stored = records == NULL ? NULL : store_here(self, plan, set, records, &newer);
    Outcome outcome = FAILED;
    if (stored != NULL && newer) { /* to be stamped once more */
        outcome = go_on_with_set(self, origin, set, records, stored, kept);
    }
    else if (stored != NULL && plan->ask_count > 0) {
        outcome = ask_others(self, origin, plan, set, records, stored, kept);
    }
    else if (stored != NULL && publish(self, keys, stamp) == 0) {
        outcome = answer(self, origin, SET, done_frame(self, set->number)) ? FAILED : DONE;
    }
    Py_XDECREF(records);
    Py_XDECREF(stored);
    return outcome;
}

Outcome
serve_set(Usual *self, PyObject *origin, Request *set)
{
    Plan plan = {0};
    Outcome outcome = make_plan(self, &plan, set);
    if (outcome == DONE) {
        outcome = is_small(self, set);
    }
    if (outcome == DONE) {
        outcome = are_distinct(set);
    }
    if (outcome == DONE) {
        PyObject *kept = take_on(self, origin, &plan, set);
        char stamp[STAMP_BYTES];
        int failed = kept == NULL || count_request(self, set) || make_stamp(self, set->ttl_ms, plan.wall_ms, stamp);
        outcome = failed ? FAILED : write_records(self, origin, &plan, set, stamp, kept);
        Py_XDECREF(kept);
    }
    Py_XDECREF(plan.sets);
    Py_XDECREF(plan.owners);
    return outcome;
}

/* -- the answer ------------------------------------------------------------------------------------------------------ */

/* An answer that says that all is stored, and what it belongs to. */
typedef struct {
    uint64_t clock;
    uint64_t number;
    PyObject *key;       /* the number, as a key */
    PyObject *waiting;   /* the table of those that wait */
    PyObject *operation; /* the one that it answers, held */
    double now;
} Stored;

/* Read a frame of one WRITE_REPLY without exceptions. */
static Outcome
read_stored(const uint8_t *data, size_t size, Stored *stored)
{
    Reader reader = {data, data + size};
    uint32_t count, newer, live;
    uint64_t kind;
    Slice view;
    bool is_one = read_array(&reader, &count) && count == 2 && read_uint(&reader, &stored->clock) &&
                  read_array(&reader, &count) && count == 5 && read_uint(&reader, &kind) && kind == WRITE_REPLY &&
                  read_uint(&reader, &stored->number) && read_bin(&reader, &view) && view.size <= DIGEST_SIZE_MAX &&
                  read_array(&reader, &newer) && newer == 0 && read_array(&reader, &live) && live == 0;
    return is_one && reader.at == reader.end && stored->clock != 0;
}

/* Tell whether a link leads to the node with this id. */
static Outcome
leads_to(Usual *self, PyObject *address, PyObject *node_id)
{
    PyObject *links = part_attribute(self, PEERS, N_LINKS);
    PyObject *link = links != NULL && PyDict_CheckExact(links) ? PyDict_GetItemWithError(links, address) : NULL;
    PyObject *there = link == NULL ? NULL : attribute(self, link, N_NODE_ID);
    int is_same = there == NULL ? 0 : PyObject_RichCompareBool(there, node_id, Py_EQ);
    Py_XDECREF(links);
    Py_XDECREF(there);
    return is_same < 0 || PyErr_Occurred() ? FAILED : is_same;
}

/* Tell whether an operation is under way, and has not waited so long that this is told of. */
static Outcome
is_in_time(Usual *self, Stored *stored)
{
    PyObject *running = part_attribute(self, PENDING, N_RUNNING), *now = part_attribute(self, INSTANT, N_NOW);
    PyObject *began = NULL;
    if (running != NULL && now != NULL && PyDict_CheckExact(running)) {
        began = PyDict_GetItemWithError(running, stored->operation);
    }
    stored->now = now == NULL ? 0 : PyFloat_AsDouble(now);
    Outcome outcome = began == NULL ? UNUSUAL : stored->now - PyFloat_AsDouble(began) < self->slow_s;
    Py_XDECREF(running);
    Py_XDECREF(now);
    return PyErr_Occurred() ? FAILED : outcome;
}

/* Find the operation that waits for an answer from this address, if it is one that began as a usual one. */
static Outcome
find_operation(Usual *self, PyObject *address, Stored *stored)
{
    stored->waiting = part_attribute(self, PENDING, N_WAITING);
    stored->key = PyLong_FromUnsignedLongLong(stored->number);
    if (stored->waiting == NULL || stored->key == NULL) {
        return FAILED;
    }
    PyObject *entry = PyDict_CheckExact(stored->waiting) ? PyDict_GetItemWithError(stored->waiting, stored->key) : NULL;
    if (entry == NULL || !PyTuple_CheckExact(entry) || PyTuple_GET_SIZE(entry) != 4) {
        return PyErr_Occurred() ? FAILED : UNUSUAL;
    }
    PyObject *operation = PyTuple_GET_ITEM(entry, 0), *node_id = PyTuple_GET_ITEM(entry, 2);
    if ((PyObject *)Py_TYPE(operation) != self->parts[WAITS]) {
        return UNUSUAL;
    }
    stored->operation = Py_NewRef(operation);
    Outcome outcome = leads_to(self, address, node_id);
    return outcome == DONE ? is_in_time(self, stored) : outcome;
}

/* Do what is to be done when all owners have stored a SET. */
static int
finish(Usual *self, PyObject *operation, double now, PyObject **origin)
{
    PyObject *fields = attribute(self, operation, N_FIELDS), *records = attribute(self, operation, N_RECORDS);
    PyObject *kept = attribute(self, operation, N_KEPT), *ended = NULL;
    int failed = fields == NULL || records == NULL || kept == NULL ||
                 (*origin = attribute(self, operation, N_ORIGIN)) == NULL;
    if (!failed) {
        const char *last = PyBytes_AS_STRING(PyList_GET_ITEM(records, PyList_GET_SIZE(records) - 1));
        failed = end_operation(self, operation, now) || publish(self, PyTuple_GET_ITEM(fields, 6), last);
    }
    if (!failed && PyObject_IsTrue(kept)) {
        ended = PyObject_CallMethodOneArg(self->parts[BACKLOG], self->names[N_END].text, kept);
        failed = ended == NULL;
        Py_XDECREF(ended);
    }
    if (!failed) {
        uint64_t number = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(fields, 0));
        failed = answer(self, *origin, SET, PyErr_Occurred() ? NULL : done_frame(self, number));
    }
    Py_XDECREF(fields);
    Py_XDECREF(records);
    Py_XDECREF(kept);
    return failed ? -1 : 0;
}

/* Count an answer; the last one ends the operation. */
static Outcome
count_stored(Usual *self, Stored *stored, int64_t left, PyObject **origin)
{
    if (PyObject_DelItem(stored->waiting, stored->key)) {
        return FAILED;
    }
    if (note_answered(self, stored->key, stored->now) ||
        set_new(self, stored->operation, N_LEFT, PyLong_FromLongLong(left - 1)) ||
        (left == 1 && finish(self, stored->operation, stored->now, origin))) {
        return FAILED;
    }
    return DONE;
}

/* Take an answer that belongs to a usual SET. */
static Outcome
take_stored(Usual *self, PyObject *address, Stored *stored, PyObject **origin)
{
    Outcome outcome = find_operation(self, address, stored);
    int64_t left = outcome == DONE ? number_of(self, stored->operation, N_LEFT) : 0;
    int64_t wall_ms = outcome == DONE && !PyErr_Occurred() ? number_of(self, self->parts[INSTANT], N_WALL_MS) : 0;
    if (PyErr_Occurred()) {
        return FAILED;
    }
    bool is_ahead = false;
    if (outcome == DONE) {
        outcome = left > 0 ? may_follow(self, stored->clock, wall_ms, &is_ahead) : UNUSUAL;
    }
    if (outcome != DONE) {
        return outcome;
    }
    if (is_ahead && follow(self, stored->clock)) {
        return FAILED;
    }
    return count_stored(self, stored, left, origin);
}

Outcome
serve_write_reply(Usual *self, PyObject *address, const uint8_t *data, size_t size, PyObject **origin)
{
    Stored stored = {0};
    Outcome outcome = read_stored(data, size, &stored);
    if (outcome == DONE) {
        outcome = take_stored(self, address, &stored, origin);
    }
    Py_XDECREF(stored.key);
    Py_XDECREF(stored.waiting);
    Py_XDECREF(stored.operation);
    return outcome;
}
