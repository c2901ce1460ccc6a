/* Reading a usual request. Its keys and contents stay where they are in the frame, and are made objects only where
 * somebody asks for that. What wire.py checks of a GET and a SET is checked here, and what is not as it should be is left
 * to it: it finds out once more, and says what is wrong. */

#include "request.h"

#define REQUEST_FIELDS 9

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

static Outcome
read_rest(Reader *reader, Request *request)
{
    if (request->kind == GET) {
        bool meta;
        if (!read_int(reader, &request->r) || !read_int(reader, &request->w) || !read_bool(reader, &meta) || meta) {
            return UNUSUAL;
        }
        return read_keys(reader, GET_KEYS_MAX, 1, request);
    }
    uint32_t contents;
    if (!read_int(reader, &request->w) || !read_int(reader, &request->ttl_ms)) {
        return UNUSUAL;
    }
    Outcome outcome = read_keys(reader, SET_KEYS_MAX, 2, request);
    if (outcome != DONE) {
        return outcome;
    }
    if (!read_array(reader, &contents) || contents != request->count) {
        return UNUSUAL;
    }
    request->contents = request->keys + contents;
    outcome = read_slices(reader, request->contents, contents);
    return outcome == DONE ? check_contents(request) : outcome;
}

/* Read a frame of one GET or SET for this process; anything else is unusual. */
Outcome
read_request(Reader *reader, uint64_t boot, bool sets, Request *request)
{
    uint32_t count;
    uint64_t clock, asked;
    if (!read_array(reader, &count) || count != 2 || !read_uint(reader, &clock) || clock != 0) {
        return UNUSUAL;
    }
    if (!read_array(reader, &count) || count != REQUEST_FIELDS || !read_uint(reader, &request->kind) ||
        !(request->kind == GET || (request->kind == SET && sets))) {
        return UNUSUAL;
    }
    if (!read_uint(reader, &request->number) || !read_uint(reader, &asked) || asked != boot ||
        !read_int(reader, &request->deadline_ms) || !read_bin(reader, &request->view)) {
        return UNUSUAL;
    }
    Outcome outcome = read_rest(reader, request);
    return outcome == DONE && reader->at != reader->end ? UNUSUAL : outcome;
}
