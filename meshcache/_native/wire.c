/* The part of msgpack that frames are made of: arrays, integers, booleans, nil, and bytes. No text, maps, floats or
 * extensions: a frame that has one where these functions look for something else is for Python to judge.
 *
 * Reading accepts every form in which msgpack can write a value, as Python's does. Each length is checked against what
 * is left before it is used, so a reader never goes past its end; nothing is allocated, and nothing recurses. The count
 * of an array is only a number that somebody claims: each element takes a byte at least, so read_array refuses counts
 * that are greater than what is left.
 *
 * Writing takes the shortest form, as Python's does. It is done in two steps, sizes first: so the bytes object is made
 * with its final size, and filled without a check at each value. */

#include "wire.h"

#include <string.h>

static inline size_t
left_of(const Reader *reader)
{
    return (size_t)(reader->end - reader->at);
}

/* Read an unsigned number of 1, 2, 4 or 8 bytes, the most significant first, that begins one byte ahead. */
static inline bool
number_after(const Reader *reader, size_t bytes, uint64_t *value)
{
    if (left_of(reader) < 1 + bytes) {
        return false;
    }
    uint64_t number = 0;
    for (size_t i = 1; i <= bytes; i++) {
        number = number << 8 | reader->at[i];
    }
    *value = number;
    return true;
}

bool
read_array(Reader *reader, uint32_t *count)
{
    if (reader->at == reader->end) {
        return false;
    }
    uint8_t head = *reader->at;
    uint64_t number;
    size_t bytes = 0;
    if ((head & 0xf0) == 0x90) {
        number = head & 0x0f;
    }
    else if (head == 0xdc || head == 0xdd) {
        bytes = head == 0xdc ? 2 : 4;
        if (!number_after(reader, bytes, &number)) {
            return false;
        }
    }
    else {
        return false;
    }
    if (number > left_of(reader) - 1 - bytes) {
        return false;
    }
    reader->at += 1 + bytes;
    *count = (uint32_t)number;
    return true;
}

bool
read_uint(Reader *reader, uint64_t *value)
{
    if (reader->at == reader->end) {
        return false;
    }
    uint8_t head = *reader->at;
    if (head < 0x80) {
        *value = head;
        reader->at += 1;
        return true;
    }
    if (head >= 0xcc && head <= 0xcf) {
        size_t bytes = (size_t)1 << (head - 0xcc);
        if (!number_after(reader, bytes, value)) {
            return false;
        }
        reader->at += 1 + bytes;
        return true;
    }
    /* Positive numbers may come in a signed form; no packer that we know does that. */
    int64_t number;
    Reader ahead = *reader;
    if (!read_int(&ahead, &number) || number < 0) {
        return false;
    }
    *reader = ahead;
    *value = (uint64_t)number;
    return true;
}

bool
read_int(Reader *reader, int64_t *value)
{
    if (reader->at == reader->end) {
        return false;
    }
    uint8_t head = *reader->at;
    uint64_t number;
    if (head < 0x80 || head >= 0xe0) {
        *value = (int8_t)head;
        reader->at += 1;
        return true;
    }
    if (head >= 0xcc && head <= 0xcf) {
        size_t bytes = (size_t)1 << (head - 0xcc);
        if (!number_after(reader, bytes, &number) || number > INT64_MAX) {
            return false;
        }
        *value = (int64_t)number;
        reader->at += 1 + bytes;
        return true;
    }
    if (head >= 0xd0 && head <= 0xd3) {
        size_t bytes = (size_t)1 << (head - 0xd0);
        if (!number_after(reader, bytes, &number)) {
            return false;
        }
        uint64_t sign = (uint64_t)1 << (8 * bytes - 1);
        *value = (int64_t)((number ^ sign) - sign);
        reader->at += 1 + bytes;
        return true;
    }
    return false;
}

bool
read_bool(Reader *reader, bool *value)
{
    if (reader->at == reader->end || (*reader->at & 0xfe) != 0xc2) {
        return false;
    }
    *value = *reader->at & 1;
    reader->at += 1;
    return true;
}

bool
read_nil(Reader *reader)
{
    if (reader->at == reader->end || *reader->at != 0xc0) {
        return false;
    }
    reader->at += 1;
    return true;
}

bool
read_bin(Reader *reader, Slice *value)
{
    if (reader->at == reader->end || *reader->at < 0xc4 || *reader->at > 0xc6) {
        return false;
    }
    size_t bytes = (size_t)1 << (*reader->at - 0xc4);
    uint64_t size;
    if (!number_after(reader, bytes, &size) || size > left_of(reader) - 1 - bytes) {
        return false;
    }
    value->data = reader->at + 1 + bytes;
    value->size = (size_t)size;
    reader->at = value->data + size;
    return true;
}

/* How many bytes of a number follow its head, when the head has no room for it. */
static inline size_t
bytes_of(uint64_t value)
{
    return value <= UINT8_MAX ? 1 : value <= UINT16_MAX ? 2 : value <= UINT32_MAX ? 4 : 8;
}

static inline uint8_t
log2_of(size_t bytes)
{
    return bytes == 1 ? 0 : bytes == 2 ? 1 : bytes == 4 ? 2 : 3;
}

static inline uint8_t *
write_number(uint8_t *to, uint8_t head, uint64_t value, size_t bytes)
{
    *to++ = head;
    for (size_t i = bytes; i-- > 0;) {
        *to++ = (uint8_t)(value >> (8 * i));
    }
    return to;
}

size_t
size_of_uint(uint64_t value)
{
    return value < 0x80 ? 1 : 1 + bytes_of(value);
}

size_t
size_of_int(int64_t value)
{
    if (value >= 0) {
        return size_of_uint((uint64_t)value);
    }
    return value >= -32          ? 1
           : value >= INT8_MIN   ? 2
           : value >= INT16_MIN  ? 3
           : value >= INT32_MIN  ? 5
                                 : 9;
}

size_t
size_of_array(uint32_t count)
{
    return count < 16 ? 1 : count <= UINT16_MAX ? 3 : 5;
}

size_t
size_of_bin(size_t size)
{
    return 1 + (size <= UINT8_MAX ? 1 : size <= UINT16_MAX ? 2 : 4) + size;
}

uint8_t *
write_uint(uint8_t *to, uint64_t value)
{
    if (value < 0x80) {
        *to = (uint8_t)value;
        return to + 1;
    }
    size_t bytes = bytes_of(value);
    return write_number(to, (uint8_t)(0xcc + log2_of(bytes)), value, bytes);
}

uint8_t *
write_int(uint8_t *to, int64_t value)
{
    if (value >= 0) {
        return write_uint(to, (uint64_t)value);
    }
    size_t bytes = size_of_int(value) - 1;
    if (bytes == 0) {
        *to = (uint8_t)value;
        return to + 1;
    }
    return write_number(to, (uint8_t)(0xd0 + log2_of(bytes)), (uint64_t)value, bytes);
}

uint8_t *
write_array(uint8_t *to, uint32_t count)
{
    if (count < 16) {
        *to = (uint8_t)(0x90 | count);
        return to + 1;
    }
    return count <= UINT16_MAX ? write_number(to, 0xdc, count, 2) : write_number(to, 0xdd, count, 4);
}

uint8_t *
write_bin_head(uint8_t *to, size_t size)
{
    size_t bytes = size <= UINT8_MAX ? 1 : size <= UINT16_MAX ? 2 : 4;
    return write_number(to, (uint8_t)(0xc4 + log2_of(bytes)), size, bytes);
}

uint8_t *
write_bin(uint8_t *to, const void *data, size_t size)
{
    to = write_bin_head(to, size);
    if (size) {
        memcpy(to, data, size);
    }
    return to + size;
}

uint8_t *
write_nil(uint8_t *to)
{
    *to = 0xc0;
    return to + 1;
}

uint8_t *
write_bool(uint8_t *to, bool value)
{
    *to = value ? 0xc3 : 0xc2;
    return to + 1;
}
