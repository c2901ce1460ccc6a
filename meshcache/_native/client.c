/* The client's side of a usual GET or SET: the keys and values of a call become a request's frame, and a reply's frame
 * becomes values, each in one call and without an object per key in between.
 *
 * What a call in place costs is how much code and how many objects it touches, because client and node sleep while they
 * wait for each other, and wake with cold caches. So these functions take what the caller has (keys and values as the
 * user wrote them) and return what the socket takes, and the other way round.
 *
 * meshcache/client/fast_path.py has their twins in Python, which are the specification. Both serve the usual case
 * only: keys of type str or bytes within the limits, and a frame that is one REPLY with the expected number, view and
 * count. For anything else they return None, and have changed nothing: then the general way (delivery.py, wire.py)
 * does it, and finds the words for what is wrong. So no function here has an error of its own but want of memory, and
 * whatever the caller's codec raises.
 *
 * A frame is hostile until it was read to its last byte: each length is compared with what is left before it is used,
 * there is no recursion, and nothing is allocated that the frame does not have the bytes for. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "client.h"
#include "wire.h"

enum {
    KIND_GET = 10,
    KIND_SET = 11,
    KIND_REPLY = 20,
    KEY_BYTES_MAX = 1024,
    BATCH_OPS_MAX = 4096,
    VERSION_AND_EXPIRY_BYTES = 22,
    HEADER_BYTES = 24,
    TOMBSTONE = 1,
    CODEC_BYTES = 0,
    CODEC_STR = 1,
    CODEC_INT = 2,
    INT_DIGITS_MAX = 18, /* within 64 bits, whatever the digits are */
    CONTENT_FLAG_BYTES = 2,
    ZMQ_EVENTS = 15,
    ZMQ_POLLIN = 1,
};

static PyObject *
unless_usual(Outcome outcome, PyObject *made)
{
    if (outcome == DONE) {
        return made;
    }
    Py_XDECREF(made);
    if (outcome == FAILED) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static bool
has_count(Py_ssize_t given, Py_ssize_t wanted)
{
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "takes %zd arguments, not %zd", wanted, given);
    }
    return given == wanted;
}

/* ---- writing: a bytes object that grows */

typedef struct {
    PyObject *bytes; /* NULL after a failure */
    Py_ssize_t used;
} Writer;

static bool
writer_begin(Writer *writer, Py_ssize_t expected)
{
    writer->bytes = PyBytes_FromStringAndSize(NULL, expected);
    writer->used = 0;
    return writer->bytes != NULL;
}

/* Returns where the next bytes go, with room for so many. Every caller is bounded by the limit for a frame's bytes, or
 * by a single value that is there already. */
static uint8_t *
writer_room(Writer *writer, size_t count)
{
    size_t size = (size_t)PyBytes_GET_SIZE(writer->bytes);
    if (count > size - (size_t)writer->used) {
        if (count > PY_SSIZE_T_MAX / 4) {
            PyErr_NoMemory();
            return NULL;
        }
        if (_PyBytes_Resize(&writer->bytes, (Py_ssize_t)(2 * size + count)) < 0) {
            return NULL;
        }
    }
    return (uint8_t *)PyBytes_AS_STRING(writer->bytes) + writer->used;
}

static void
writer_advance(Writer *writer, const uint8_t *to)
{
    writer->used = (const char *)to - PyBytes_AS_STRING(writer->bytes);
}

static PyObject *
writer_end(Writer *writer, Outcome outcome)
{
    if (outcome == DONE && _PyBytes_Resize(&writer->bytes, writer->used) < 0) {
        return NULL;
    }
    return unless_usual(outcome, writer->bytes);
}

static bool
put_int(Writer *writer, long long value)
{
    uint8_t *at = writer_room(writer, size_of_int(value));
    if (at == NULL) {
        return false;
    }
    writer_advance(writer, write_int(at, value));
    return true;
}

static bool
put_array(Writer *writer, Py_ssize_t count)
{
    uint8_t *at = writer_room(writer, size_of_array((uint32_t)count));
    if (at == NULL) {
        return false;
    }
    writer_advance(writer, write_array(at, (uint32_t)count));
    return true;
}

static bool
put_false(Writer *writer)
{
    uint8_t *at = writer_room(writer, 1);
    if (at == NULL) {
        return false;
    }
    writer_advance(writer, write_bool(at, false));
    return true;
}

/* A binary of two parts. */
static bool
put_bin(Writer *writer, const char *first, size_t first_size, const char *second, size_t second_size)
{
    uint8_t *at = writer_room(writer, size_of_bin(first_size + second_size));
    if (at == NULL) {
        return false;
    }
    at = write_bin_head(at, first_size + second_size);
    memcpy(at, first, first_size);
    memcpy(at + first_size, second, second_size);
    writer_advance(writer, at + first_size + second_size);
    return true;
}

/* ---- keys and values */

/* The bytes of a str or bytes. `owner` keeps them alive where they had to be made. */
typedef struct {
    const char *at;
    Py_ssize_t length;
    PyObject *owner;
} Piece;

/* `errors` is for text that no UTF-8 can be made of: NULL refuses it, as for keys. */
static Outcome
piece_of(PyObject *object, const char *errors, Piece *piece)
{
    piece->owner = NULL;
    if (PyUnicode_CheckExact(object)) {
        if (PyUnicode_IS_COMPACT_ASCII(object)) {
            piece->at = (const char *)PyUnicode_1BYTE_DATA(object);
            piece->length = PyUnicode_GET_LENGTH(object);
            return DONE;
        }
        object = piece->owner = PyUnicode_AsEncodedString(object, "utf-8", errors);
        if (object == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
                return FAILED;
            }
            PyErr_Clear();
            return UNUSUAL;
        }
    }
    else if (!PyBytes_CheckExact(object)) {
        return UNUSUAL;
    }
    piece->at = PyBytes_AS_STRING(object);
    piece->length = PyBytes_GET_SIZE(object);
    return DONE;
}

static Outcome
key_piece(PyObject *prefix, PyObject *key, Piece *piece)
{
    Outcome outcome = piece_of(key, NULL, piece);
    if (outcome == DONE && (piece->length == 0 || piece->length > KEY_BYTES_MAX - PyBytes_GET_SIZE(prefix))) {
        Py_CLEAR(piece->owner);
        return UNUSUAL;
    }
    return outcome;
}

static Outcome
write_key(Writer *writer, PyObject *prefix, PyObject *key, Py_ssize_t *left)
{
    Piece piece;
    Outcome outcome = key_piece(prefix, key, &piece);
    if (outcome != DONE) {
        return outcome;
    }
    size_t before = (size_t)PyBytes_GET_SIZE(prefix);
    *left -= (Py_ssize_t)before + piece.length;
    bool put = put_bin(writer, PyBytes_AS_STRING(prefix), before, piece.at, (size_t)piece.length);
    Py_XDECREF(piece.owner);
    return !put ? FAILED : *left > 0 ? DONE : UNUSUAL;
}

static Outcome
write_keys(Writer *writer, PyObject *prefix, PyObject *keys, Py_ssize_t *left)
{
    Py_ssize_t count = PyList_GET_SIZE(keys);
    if (!put_array(writer, count)) {
        return FAILED;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        Outcome outcome = write_key(writer, prefix, PyList_GET_ITEM(keys, i), left);
        if (outcome != DONE) {
            return outcome;
        }
    }
    return DONE;
}

typedef struct {
    PyObject *encode; /* makes a content of any value */
    bool all;         /* it is to make that of every value, whatever its type */
    Py_ssize_t value_bytes_max;
} Contents;

static Outcome
write_content(Writer *writer, int tag, const char *value, Py_ssize_t length, const Contents *how, Py_ssize_t *left)
{
    *left -= CONTENT_FLAG_BYTES + length;
    if (length > how->value_bytes_max || *left <= 0) {
        return UNUSUAL;
    }
    const char flags[CONTENT_FLAG_BYTES] = {0, (char)tag};
    return put_bin(writer, flags, sizeof flags, value, (size_t)length) ? DONE : FAILED;
}

/* The value as its codec stores it. */
static Outcome
write_encoded(Writer *writer, PyObject *value, const Contents *how, Py_ssize_t *left)
{
    PyObject *content = PyObject_CallOneArg(how->encode, value);
    if (content == NULL) {
        return FAILED;
    }
    Outcome outcome = UNUSUAL;
    if (PyBytes_CheckExact(content) && PyBytes_GET_SIZE(content) >= CONTENT_FLAG_BYTES) {
        const char *at = PyBytes_AS_STRING(content);
        if (at[0] == 0) {
            outcome = write_content(writer, at[1], at + CONTENT_FLAG_BYTES,
                                    PyBytes_GET_SIZE(content) - CONTENT_FLAG_BYTES, how, left);
        }
    }
    Py_DECREF(content);
    return outcome;
}

static Outcome
write_value(Writer *writer, PyObject *value, const Contents *how, Py_ssize_t *left)
{
    if (!how->all && PyLong_CheckExact(value)) {
        int overflow;
        long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (!overflow) {
            char digits[24];
            int length = snprintf(digits, sizeof digits, "%lld", number);
            return write_content(writer, CODEC_INT, digits, length, how, left);
        }
    }
    else if (!how->all && (PyUnicode_CheckExact(value) || PyBytes_CheckExact(value))) {
        Piece piece;
        Outcome outcome = piece_of(value, "surrogatepass", &piece);
        if (outcome == DONE) {
            int tag = PyBytes_CheckExact(value) ? CODEC_BYTES : CODEC_STR;
            outcome = write_content(writer, tag, piece.at, piece.length, how, left);
            Py_XDECREF(piece.owner);
        }
        return outcome;
    }
    Py_INCREF(value);
    Outcome outcome = write_encoded(writer, value, how, left);
    Py_DECREF(value);
    return outcome;
}

static Outcome
write_values(Writer *writer, PyObject *values, Py_ssize_t count, const Contents *how, Py_ssize_t *left)
{
    if (!put_array(writer, count)) {
        return FAILED;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (PyList_GET_SIZE(values) != count) { /* the caller's codec reached for it */
            return UNUSUAL;
        }
        Outcome outcome = write_value(writer, PyList_GET_ITEM(values, i), how, left);
        if (outcome != DONE) {
            return outcome;
        }
    }
    return DONE;
}

/* Whether this is a list of as many as one message may have. */
static bool
is_batch(PyObject *keys)
{
    return PyList_CheckExact(keys) && PyList_GET_SIZE(keys) > 0 && PyList_GET_SIZE(keys) <= BATCH_OPS_MAX;
}

/* Only keys of one type: else "a" and b"a" could both be there, which are the same key. */
static bool
are_of_one_type(PyObject *keys)
{
    for (Py_ssize_t i = 1; i < PyList_GET_SIZE(keys); i++) {
        if (Py_TYPE(PyList_GET_ITEM(keys, i)) != Py_TYPE(PyList_GET_ITEM(keys, 0))) {
            return false;
        }
    }
    return true;
}

/* ---- requests */

/* Numbers as they come from Python. False: one is no int, or does not fit; no exception is left. */
static bool
read_numbers(PyObject *const *arguments, int count, long long *numbers)
{
    for (int i = 0; i < count; i++) {
        int overflow = 1;
        if (PyLong_CheckExact(arguments[i])) {
            numbers[i] = PyLong_AsLongLongAndOverflow(arguments[i], &overflow);
        }
        if (overflow) {
            return false;
        }
    }
    return true;
}

/* [0, [kind, number, boot, deadline_ms, view, … : the frame up to the fields of the kind. */
static bool
write_head(Writer *writer, int kind, int fields, const long long *numbers, PyObject *view)
{
    if (!put_array(writer, 2) || !put_int(writer, 0) || !put_array(writer, fields) || !put_int(writer, kind)) {
        return false;
    }
    for (int i = 0; i < 3; i++) {
        if (!put_int(writer, numbers[i])) {
            return false;
        }
    }
    return put_bin(writer, PyBytes_AS_STRING(view), (size_t)PyBytes_GET_SIZE(view), "", 0);
}

/* encode_get(number, boot, deadline_ms, view, r, w, prefix, keys, bytes_max) */
static PyObject *
encode_get(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    long long numbers[3], levels[2], left;
    if (!has_count(count, 9)) {
        return NULL;
    }
    PyObject *view = given[3], *prefix = given[6], *keys = given[7];
    if (!read_numbers(given, 3, numbers) || !read_numbers(given + 4, 2, levels) || !read_numbers(given + 8, 1, &left) ||
        !PyBytes_CheckExact(view) || !PyBytes_CheckExact(prefix) || !is_batch(keys)) {
        Py_RETURN_NONE;
    }
    Writer writer;
    if (!writer_begin(&writer, 96 + PyBytes_GET_SIZE(view) + PyList_GET_SIZE(keys) * 32)) {
        return NULL;
    }
    Outcome outcome = FAILED;
    Py_ssize_t bytes_left = (Py_ssize_t)left;
    if (write_head(&writer, KIND_GET, 9, numbers, view) && put_int(&writer, levels[0]) &&
        put_int(&writer, levels[1]) && put_false(&writer)) {
        outcome = write_keys(&writer, prefix, keys, &bytes_left);
    }
    return writer_end(&writer, outcome);
}

/* encode_set(number, boot, deadline_ms, view, w, ttl_ms, prefix, keys, values, encode, encode_all, value_bytes_max,
 * bytes_max) */
static PyObject *
encode_set(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    long long numbers[3], options[2], limits[2];
    if (!has_count(count, 13)) {
        return NULL;
    }
    PyObject *view = given[3], *prefix = given[6], *keys = given[7], *values = given[8];
    if (!read_numbers(given, 3, numbers) || !read_numbers(given + 4, 2, options) ||
        !read_numbers(given + 11, 2, limits) || !PyBytes_CheckExact(view) || !PyBytes_CheckExact(prefix) ||
        !is_batch(keys) || !PyList_CheckExact(values) || PyList_GET_SIZE(keys) != PyList_GET_SIZE(values) ||
        !are_of_one_type(keys)) {
        Py_RETURN_NONE;
    }
    Contents how = {given[9], given[10] == Py_True, (Py_ssize_t)limits[0]};
    Py_ssize_t length = PyList_GET_SIZE(keys), left = (Py_ssize_t)limits[1];
    Writer writer;
    if (!writer_begin(&writer, 96 + PyBytes_GET_SIZE(view) + length * 160)) {
        return NULL;
    }
    Outcome outcome = FAILED;
    if (write_head(&writer, KIND_SET, 9, numbers, view) && put_int(&writer, options[0]) &&
        put_int(&writer, options[1])) {
        outcome = write_keys(&writer, prefix, keys, &left);
        if (outcome == DONE) {
            outcome = write_values(&writer, values, length, &how, &left);
        }
    }
    return writer_end(&writer, outcome);
}

/* ---- the nodes that own the keys */

/* CRC-32 as zlib computes it, four bits at a time: a table of 64 bytes stays in the cache. */
static uint32_t
crc32_add(uint32_t crc, const char *bytes, Py_ssize_t length)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    for (Py_ssize_t i = 0; i < length; i++) {
        crc ^= (uint8_t)bytes[i];
        crc = (crc >> 4) ^ table[crc & 15];
        crc = (crc >> 4) ^ table[crc & 15];
    }
    return crc;
}

/* Whether a key is among the hot ones, for which another way is taken. */
static Outcome
unless_hot(PyObject *hot, PyObject *prefix, const Piece *piece)
{
    if (PyDict_GET_SIZE(hot) == 0) {
        return DONE;
    }
    PyObject *raw = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(prefix) + piece->length);
    if (raw == NULL) {
        return FAILED;
    }
    memcpy(PyBytes_AS_STRING(raw), PyBytes_AS_STRING(prefix), (size_t)PyBytes_GET_SIZE(prefix));
    memcpy(PyBytes_AS_STRING(raw) + PyBytes_GET_SIZE(prefix), piece->at, (size_t)piece->length);
    int found = PyDict_Contains(hot, raw);
    Py_DECREF(raw);
    return found < 0 ? FAILED : found ? UNUSUAL : DONE;
}

/* The address that is asked first for a key; borrowed. `first` has been found to be what the ring says. */
static Outcome
find_in_ring(PyObject *prefix, uint32_t prefix_crc, PyObject *key, PyObject *first, PyObject *hot, PyObject **owner)
{
    Piece piece;
    Outcome outcome = key_piece(prefix, key, &piece);
    if (outcome != DONE) {
        return outcome;
    }
    uint32_t crc = ~crc32_add(prefix_crc, piece.at, piece.length);
    *owner = PyList_GET_ITEM(first, (Py_ssize_t)(crc & (uint32_t)(PyList_GET_SIZE(first) - 1)));
    outcome = *owner == Py_None ? UNUSUAL : unless_hot(hot, prefix, &piece);
    Py_XDECREF(piece.owner);
    return outcome;
}

/* Adds a place to the list of an owner. */
static Outcome
add_to_share(PyObject *shares, PyObject *owner, Py_ssize_t place)
{
    PyObject *number = PyLong_FromSsize_t(place), *empty = PyList_New(0);
    PyObject *share = number == NULL || empty == NULL ? NULL : PyDict_SetDefault(shares, owner, empty);
    bool added = share != NULL && PyList_Append(share, number) == 0;
    Py_XDECREF(number);
    Py_XDECREF(empty);
    return added ? DONE : FAILED;
}

/* Whether these are what the ring says: the number of slots is a power of two. */
static bool
is_routing(PyObject *prefix, PyObject *first, PyObject *hot)
{
    Py_ssize_t slots = PyList_CheckExact(first) ? PyList_GET_SIZE(first) : 0;
    return PyBytes_CheckExact(prefix) && PyDict_Check(hot) && slots > 0 && (slots & (slots - 1)) == 0 &&
           (uint64_t)slots <= UINT32_MAX;
}

Outcome
find_owner(PyObject *prefix, PyObject *key, PyObject *first, PyObject *hot, PyObject **owner)
{
    if (!is_routing(prefix, first, hot)) {
        return UNUSUAL;
    }
    uint32_t crc = crc32_add(UINT32_MAX, PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix));
    return find_in_ring(prefix, crc, key, first, hot, owner);
}

/* owner_of(prefix, key, first, hot) */
static PyObject *
owner_of(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    PyObject *owner = NULL;
    if (!has_count(count, 4)) {
        return NULL;
    }
    Outcome outcome = find_owner(given[0], given[1], given[2], given[3], &owner);
    return unless_usual(outcome, outcome == DONE ? Py_NewRef(owner) : NULL);
}

/* share_out(prefix, keys, first, hot) */
static PyObject *
share_out(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (!has_count(count, 4)) {
        return NULL;
    }
    PyObject *prefix = given[0], *keys = given[1], *first = given[2], *hot = given[3];
    if (!is_routing(prefix, first, hot) || !PyList_CheckExact(keys)) {
        Py_RETURN_NONE;
    }
    PyObject *shares = PyDict_New();
    if (shares == NULL) {
        return NULL;
    }
    uint32_t crc = crc32_add(UINT32_MAX, PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix));
    Outcome outcome = DONE;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(keys) && outcome == DONE; i++) {
        PyObject *key = PyList_GET_ITEM(keys, i), *owner;
        outcome = find_in_ring(prefix, crc, key, first, hot, &owner);
        if (outcome == DONE) {
            outcome = add_to_share(shares, owner, i);
        }
    }
    return unless_usual(outcome, shares);
}

/* ---- replies */

/* Reads a reply up to its results: false unless the frame is this one message, with this view. */
static bool
read_head(Reader *reader, const char *view, Py_ssize_t view_length, uint64_t *number)
{
    uint32_t parts, fields;
    uint64_t clock, kind;
    Slice told;
    return read_array(reader, &parts) && parts == 2 && read_uint(reader, &clock) && read_array(reader, &fields) &&
           fields == 4 && read_uint(reader, &kind) && kind == KIND_REPLY && read_uint(reader, number) &&
           read_bin(reader, &told) && told.size == (size_t)view_length && memcmp(told.data, view, told.size) == 0;
}

/* A frame that is open for reading. */
typedef struct {
    Py_buffer buffer;
    Reader reader;
} Opened;

/* Opens a frame and reads it up to its results; on DONE, `opened` must be released. */
static Outcome
open_reply(PyObject *frame, PyObject *view, Opened *opened, uint64_t *number)
{
    if (!PyBytes_CheckExact(view)) {
        return UNUSUAL;
    }
    if (PyObject_GetBuffer(frame, &opened->buffer, PyBUF_SIMPLE) < 0) {
        return FAILED;
    }
    opened->reader.at = opened->buffer.buf;
    opened->reader.end = opened->reader.at + opened->buffer.len;
    if (read_head(&opened->reader, PyBytes_AS_STRING(view), PyBytes_GET_SIZE(view), number)) {
        return DONE;
    }
    PyBuffer_Release(&opened->buffer);
    return UNUSUAL;
}

/* Opens the reply to the request with this number. */
static Outcome
open_reply_to(PyObject *frame, PyObject *number, PyObject *view, Opened *opened)
{
    long long expected;
    uint64_t told;
    if (!read_numbers(&number, 1, &expected)) {
        return UNUSUAL;
    }
    Outcome outcome = open_reply(frame, view, opened, &told);
    if (outcome == DONE && (expected < 0 || told != (uint64_t)expected)) {
        PyBuffer_Release(&opened->buffer);
        return UNUSUAL;
    }
    return outcome;
}

/* Opens the reply to a request that has this many results, one for each key. */
static Outcome
open_results(PyObject *const *given, Py_ssize_t expected, Opened *opened)
{
    Outcome outcome = open_reply_to(given[0], given[1], given[2], opened);
    if (outcome != DONE) {
        return outcome;
    }
    uint32_t results;
    if (read_array(&opened->reader, &results) && results == (size_t)expected) {
        return DONE;
    }
    PyBuffer_Release(&opened->buffer);
    return UNUSUAL;
}

/* The number in decimal digits; NULL without an exception: int() may read it, or say what is wrong. */
static PyObject *
int_of_digits(const uint8_t *at, size_t length)
{
    bool negative = length > 0 && at[0] == '-';
    size_t digits = length - negative;
    if (digits < 1 || digits > INT_DIGITS_MAX) {
        return NULL;
    }
    long long value = 0;
    for (size_t i = negative; i < length; i++) {
        if (at[i] < '0' || at[i] > '9') {
            return NULL;
        }
        value = value * 10 + (at[i] - '0');
    }
    return PyLong_FromLongLong(negative ? -value : value);
}

/* The value of a record without marks, if it is bytes, text or a number that can be read here; else NULL, with an
 * exception only for want of memory. */
static PyObject *
plain_value(const uint8_t *record, size_t length)
{
    const char *value = (const char *)record + HEADER_BYTES;
    Py_ssize_t value_length = (Py_ssize_t)(length - HEADER_BYTES);
    if (record[VERSION_AND_EXPIRY_BYTES] != 0) {
        return NULL;
    }
    switch (record[HEADER_BYTES - 1]) {
    case CODEC_BYTES:
        return PyBytes_FromStringAndSize(value, value_length);
    case CODEC_STR: {
        PyObject *text = PyUnicode_DecodeUTF8(value, value_length, "surrogatepass");
        if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            PyErr_Clear();
        }
        return text;
    }
    case CODEC_INT:
        return int_of_digits(record + HEADER_BYTES, (size_t)value_length);
    default:
        return NULL;
    }
}

/* Reads one result: a value; `missing`; or the record in a tuple, which its reader has to make sense of. */
static Outcome
read_value(Reader *reader, PyObject *missing, PyObject **value)
{
    Slice record;
    if (read_nil(reader)) {
        *value = Py_NewRef(missing);
        return DONE;
    }
    if (!read_bin(reader, &record) || record.size < HEADER_BYTES) {
        return UNUSUAL;
    }
    if (record.data[VERSION_AND_EXPIRY_BYTES] & TOMBSTONE) {
        *value = Py_NewRef(missing);
        return DONE;
    }
    *value = plain_value(record.data, record.size);
    if (*value == NULL && !PyErr_Occurred()) {
        *value = Py_BuildValue("(y#)", (const char *)record.data, (Py_ssize_t)record.size);
    }
    return *value == NULL ? FAILED : DONE;
}

/* decode_value(frame, number, view, missing) */
static PyObject *
decode_value(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (!has_count(count, 4)) {
        return NULL;
    }
    Opened opened;
    PyObject *value = NULL;
    Outcome outcome = open_results(given, 1, &opened);
    if (outcome == DONE) {
        outcome = read_value(&opened.reader, given[3], &value);
        if (outcome == DONE && opened.reader.at != opened.reader.end) {
            outcome = UNUSUAL;
        }
        PyBuffer_Release(&opened.buffer);
    }
    return unless_usual(outcome, value);
}

/* Reads the values of a reply that has any. */
static PyObject *
read_values(Reader *reader, PyObject *missing, Outcome *outcome)
{
    uint32_t results;
    if (!read_array(reader, &results) || results > BATCH_OPS_MAX) {
        *outcome = UNUSUAL;
        return NULL;
    }
    PyObject *values = PyList_New(0);
    *outcome = values == NULL ? FAILED : DONE;
    for (uint32_t i = 0; i < results && *outcome == DONE; i++) {
        PyObject *value = NULL;
        *outcome = read_value(reader, missing, &value);
        if (*outcome == DONE && PyList_Append(values, value) < 0) {
            *outcome = FAILED;
        }
        Py_XDECREF(value);
    }
    return values;
}

/* decode_reply(frame, view, missing) */
static PyObject *
decode_reply(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    Opened opened;
    uint64_t number;
    if (!has_count(count, 3)) {
        return NULL;
    }
    Outcome outcome = open_reply(given[0], given[1], &opened, &number);
    if (outcome != DONE) {
        return unless_usual(outcome, NULL);
    }
    PyObject *values = read_nil(&opened.reader) ? Py_NewRef(Py_None) : read_values(&opened.reader, given[2], &outcome);
    if (outcome == DONE && opened.reader.at != opened.reader.end) {
        outcome = UNUSUAL;
    }
    PyBuffer_Release(&opened.buffer);
    PyObject *both = outcome == DONE ? Py_BuildValue("(KO)", (unsigned long long)number, values) : NULL;
    Py_XDECREF(values);
    return outcome == DONE ? both : unless_usual(outcome, NULL);
}

/* Puts the value of one key, if it has one, into `found`, and the key of a record to be made sense of into `rest`. */
static Outcome
read_hit(Reader *reader, PyObject *key, PyObject *found, PyObject *rest)
{
    PyObject *value = NULL;
    Outcome outcome = read_value(reader, Py_None, &value);
    if (outcome == DONE && value != Py_None) {
        if (PyDict_SetItem(found, key, value) < 0 || (PyTuple_CheckExact(value) && PyList_Append(rest, key) < 0)) {
            outcome = FAILED;
        }
    }
    Py_XDECREF(value);
    return outcome;
}

/* decode_values(frame, number, view, keys) */
static PyObject *
decode_values(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    Opened opened;
    if (!has_count(count, 4)) {
        return NULL;
    }
    PyObject *keys = given[3];
    if (!PyList_CheckExact(keys)) {
        Py_RETURN_NONE;
    }
    Py_ssize_t expected = PyList_GET_SIZE(keys);
    Outcome outcome = open_results(given, expected, &opened);
    if (outcome != DONE) {
        return unless_usual(outcome, NULL);
    }
    PyObject *found = PyDict_New(), *rest = PyList_New(0);
    outcome = found == NULL || rest == NULL ? FAILED : DONE;
    for (Py_ssize_t i = 0; i < expected && outcome == DONE; i++) {
        outcome = read_hit(&opened.reader, PyList_GET_ITEM(keys, i), found, rest);
    }
    if (outcome == DONE && opened.reader.at != opened.reader.end) {
        outcome = UNUSUAL;
    }
    PyBuffer_Release(&opened.buffer);
    PyObject *both = outcome == DONE ? PyTuple_Pack(2, found, rest) : NULL;
    Py_XDECREF(found);
    Py_XDECREF(rest);
    return outcome == DONE ? both : unless_usual(outcome, NULL);
}

/* decode_done(frame, number, view) */
static PyObject *
decode_done(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (!has_count(count, 3)) {
        return NULL;
    }
    Opened opened;
    Outcome outcome = open_reply_to(given[0], given[1], given[2], &opened);
    if (outcome == DONE) {
        outcome = read_nil(&opened.reader) && opened.reader.at == opened.reader.end ? DONE : UNUSUAL;
        PyBuffer_Release(&opened.buffer);
    }
    return unless_usual(outcome, outcome == DONE ? Py_NewRef(Py_True) : NULL);
}

/* receive_when_there(zmq_getsockopt, socket, descriptor, timeout_ms, recv, flags): wait for a message of a socket of
 * libzmq, and call recv(flags) in any case.
 *
 * The descriptor wakes only for what came after the socket was last asked for its state, and so it is asked first. A
 * signal ends the wait, and its handler runs here; the caller knows what time is left. */
static PyObject *
receive_when_there(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (!has_count(count, 6)) {
        return NULL;
    }
    int (*getsockopt)(void *socket, int option, void *value, size_t *size) = PyLong_AsVoidPtr(given[0]);
    void *socket = PyLong_AsVoidPtr(given[1]);
    struct pollfd wanted = {.fd = (int)PyLong_AsLong(given[2]), .events = POLLIN};
    int timeout_ms = (int)PyLong_AsLong(given[3]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    int state = 0;
    size_t size = sizeof state;
    if (getsockopt(socket, ZMQ_EVENTS, &state, &size) == 0 && !(state & ZMQ_POLLIN)) {
        Py_BEGIN_ALLOW_THREADS
        poll(&wanted, 1, timeout_ms);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) {
            return NULL;
        }
    }
    return PyObject_CallOneArg(given[4], given[5]); /* which tells if something is wrong */
}

/* socket_state(zmq_getsockopt, socket, ask): what can be done with a socket of libzmq now; ask() tells what is wrong. */
static PyObject *
socket_state(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
    if (!has_count(count, 3)) {
        return NULL;
    }
    int (*getsockopt)(void *socket, int option, void *value, size_t *size) = PyLong_AsVoidPtr(given[0]);
    void *socket = PyLong_AsVoidPtr(given[1]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    int state = 0;
    size_t size = sizeof state;
    return getsockopt(socket, ZMQ_EVENTS, &state, &size) == 0 ? PyLong_FromLong(state) : PyObject_CallNoArgs(given[2]);
}

#define FUNCTION(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL}

static PyMethodDef functions[] = {
    FUNCTION(encode_get),    FUNCTION(encode_set),  FUNCTION(owner_of),    FUNCTION(share_out),   FUNCTION(decode_value),
    FUNCTION(decode_values), FUNCTION(decode_done), FUNCTION(decode_reply),
    FUNCTION(receive_when_there), FUNCTION(socket_state), {NULL, NULL, 0, NULL},
};

int
client_exec(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
