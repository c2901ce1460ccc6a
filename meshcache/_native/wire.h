/* Reading and writing the part of msgpack that frames are made of: see wire.c. */

#ifndef MESHCACHE_WIRE_H
#define MESHCACHE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is left to read. It never goes past its end, whatever the bytes say. */
typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} Reader;

/* Bytes inside what is read; they live as long as that does. */
typedef struct {
    const uint8_t *data;
    size_t size;
} Slice;

/* Each reads one value and moves on; false if there is another type, or too little: then the reader has not moved. */
bool read_array(Reader *reader, uint32_t *count);
bool read_uint(Reader *reader, uint64_t *value);
bool read_int(Reader *reader, int64_t *value);
bool read_bool(Reader *reader, bool *value);
bool read_bin(Reader *reader, Slice *value);
bool read_nil(Reader *reader);

/* How many bytes a value takes: in the shortest form, as Python's msgpack writes it. */
size_t size_of_uint(uint64_t value);
size_t size_of_int(int64_t value);
size_t size_of_array(uint32_t count);
size_t size_of_bin(size_t size);

/* Each writes one value and returns where the next goes. There must be room: add the sizes above first. */
uint8_t *write_uint(uint8_t *to, uint64_t value);
uint8_t *write_int(uint8_t *to, int64_t value);
uint8_t *write_array(uint8_t *to, uint32_t count);
uint8_t *write_bin(uint8_t *to, const void *data, size_t size);
uint8_t *write_bin_head(uint8_t *to, size_t size);
uint8_t *write_nil(uint8_t *to);
uint8_t *write_bool(uint8_t *to, bool value);

#endif
