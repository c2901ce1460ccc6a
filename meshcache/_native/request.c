/* Reading a usual request. Its keys and contents stay where they are in the frame, and are made objects only where
 * somebody asks for that. What wire.py checks of a GET, a SET and a WRITE is checked here, and what is not as it should be is left
 * to it: it finds out once more, and says what is wrong. */

#include "request.h"

#include "store.h"

#define REQUEST_FIELDS 9
#define WRITE_FIELDS 8

void
request_free(Request *request)
{
    PyMem_Free(request->keys);
    Py_CLEAR(request->key_list);
}

PyObject *
list_of(const Slice *slices, uint32_t count)
{
    PyObject *list = PyList_New(count);
    for (uint32_t i = 0; list != NULL && i < count; i++) {
        PyObject *bytes = PyBytes_FromStringAndSize((const char *)slices[i].data, (Py_ssize_t)slices[i].size);
        if (bytes == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, bytes);
    }
    return list;
}

PyObject *
keys_of(Request *request)
{
    if (request->key_list == NULL) {
        request->key_list = list_of(request->keys, request->count);
    }
    return request->key_list;
}

static Outcome
read_slices(Reader *reader, Slice *slices, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (!read_bin(reader, &slices[i])) {
            return UNUSUAL;
        }
    }
    return DONE;
}

/* Read the keys. There is room for ``lists`` lists of that length. */
static Outcome
read_keys(Reader *reader, uint32_t count_max, size_t lists, Request *request)
{
    if (!read_array(reader, &request->count) || request->count == 0 || request->count > count_max) {
        return UNUSUAL;
    }
    request->keys = PyMem_Malloc(lists * request->count * sizeof(Slice));
    if (request->keys == NULL) {
        PyErr_NoMemory();
        return FAILED;
    }
    return read_slices(reader, request->keys, request->count);
}

/* What a client may store without further ado: two bytes of flags, of which the first is for nodes, and is 0. */
static Outcome
check_contents(Request *request)
{
    for (uint32_t i = 0; i < request->count; i++) {
        const Slice *key = &request->keys[i], *content = &request->contents[i];
        if (key->size == 0 || key->size > KEY_SIZE_MAX || content->size < CONTENT_FLAG_BYTES || content->data[0] != 0) {
            return UNUSUAL;
        }
        int64_t size = (int64_t)content->size;
        request->size += size;
        request->size_max = size > request->size_max ? size : request->size_max;
    }
    return DONE;
}

/* What another node may have stored without further ado: records without flags for nodes. */
static Outcome
check_records(Request *request)
{
    for (uint32_t i = 0; i < request->count; i++) {
        const Slice *key = &request->keys[i], *record = &request->contents[i];
        if (key->size == 0 || key->size > KEY_SIZE_MAX || record->size < HEADER_BYTES || record->data[FLAGS_AT] != 0) {
            return UNUSUAL;
        }
    }
    return DONE;
}

/* Read the keys, and as many contents or records. */
static Outcome
read_pairs(Reader *reader, uint32_t count_max, Request *request)
{
    uint32_t contents;
    Outcome outcome = read_keys(reader, count_max, 2, request);
    if (outcome != DONE) {
        return outcome;
    }
    if (!read_array(reader, &contents) || contents != request->count) {
        return UNUSUAL;
    }
    request->contents = request->keys + contents;
    return read_slices(reader, request->contents, contents);
}

static Outcome
read_get(Reader *reader, Request *request)
{
    bool meta;
    if (!read_int(reader, &request->r) || !read_int(reader, &request->w) || !read_bool(reader, &meta) || meta) {
        return UNUSUAL;
    }
    return read_keys(reader, GET_KEYS_MAX, 1, request);
}

static Outcome
read_set(Reader *reader, Request *request)
{
    if (!read_int(reader, &request->w) || !read_int(reader, &request->ttl_ms)) {
        return UNUSUAL;
    }
    Outcome outcome = read_pairs(reader, SET_KEYS_MAX, request);
    return outcome == DONE ? check_contents(request) : outcome;
}

static Outcome
read_write(Reader *reader, Request *request)
{
    bool repair;
    if (request->view.size > DIGEST_SIZE_MAX || request->number == 0 || !read_bool(reader, &repair) || repair) {
        return UNUSUAL;
    }
    Outcome outcome = read_pairs(reader, WRITE_KEYS_MAX, request);
    return outcome == DONE ? check_records(request) : outcome;
}

/* Read the head of a message, up to its kind. Clients have no clock, and nodes always have one. */
static Outcome
read_kind(Reader *reader, bool sets, Request *request)
{
    uint32_t count;
    if (!read_array(reader, &count) || count != 2 || !read_uint(reader, &request->clock) ||
        !read_array(reader, &count) || !read_uint(reader, &request->kind)) {
        return UNUSUAL;
    }
    if (request->kind == WRITE) {
        return request->clock != 0 && count == WRITE_FIELDS ? DONE : UNUSUAL;
    }
    bool is_known = request->kind == GET || (request->kind == SET && sets);
    return request->clock == 0 && is_known && count == REQUEST_FIELDS ? DONE : UNUSUAL;
}

Outcome
read_request(Reader *reader, uint64_t boot, bool sets, Request *request)
{
    uint64_t asked;
    if (read_kind(reader, sets, request) != DONE) {
        return UNUSUAL;
    }
    if (!read_uint(reader, &request->number) || !read_uint(reader, &asked) || asked != boot ||
        !read_int(reader, &request->deadline_ms) || !read_bin(reader, &request->view)) {
        return UNUSUAL;
    }
    Outcome outcome = request->kind == GET   ? read_get(reader, request)
                      : request->kind == SET ? read_set(reader, request)
                                             : read_write(reader, request);
    return outcome == DONE && reader->at != reader->end ? UNUSUAL : outcome;
}
