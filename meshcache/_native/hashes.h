/* Two hashes of a key. crc32 says in which slot it is; clients and nodes agree on that, and anybody can compute it.
 * Within a slot the place follows from SipHash-1-3 under a secret of the process, as in Python's own dicts: whoever chose
 * keys of one crc32 would otherwise make every look-up of his slot take as long as there are keys. */

#ifndef MESHCACHE_HASHES_H
#define MESHCACHE_HASHES_H

#include <stdint.h>
#include <string.h>

struct secret {
    uint64_t low, high;
};

/* crc32 is linear: what a byte does to it is the exclusive or of what its bits do. Table k says what a byte does that
 * is followed by k others; eight of them take a key eight bytes at a time. */
#define CRC_BIT(n, bit, does) ((n) >> (bit) & 1 ? (does) : 0u)
#define CRC_1(n, a, b, c, d, e, f, g, h)                                                                               \
    (CRC_BIT(n, 0, a) ^ CRC_BIT(n, 1, b) ^ CRC_BIT(n, 2, c) ^ CRC_BIT(n, 3, d) ^ CRC_BIT(n, 4, e) ^ CRC_BIT(n, 5, f) ^ \
     CRC_BIT(n, 6, g) ^ CRC_BIT(n, 7, h))
#define CRC_4(n, ...)                                                                                                  \
    CRC_1(n, __VA_ARGS__), CRC_1((n) + 1, __VA_ARGS__), CRC_1((n) + 2, __VA_ARGS__), CRC_1((n) + 3, __VA_ARGS__)
#define CRC_16(n, ...)                                                                                                 \
    CRC_4(n, __VA_ARGS__), CRC_4((n) + 4, __VA_ARGS__), CRC_4((n) + 8, __VA_ARGS__), CRC_4((n) + 12, __VA_ARGS__)
#define CRC_64(n, ...)                                                                                                 \
    CRC_16(n, __VA_ARGS__), CRC_16((n) + 16, __VA_ARGS__), CRC_16((n) + 32, __VA_ARGS__), CRC_16((n) + 48, __VA_ARGS__)
#define CRC_256(...)                                                                                                   \
    {CRC_64(0, __VA_ARGS__), CRC_64(64, __VA_ARGS__), CRC_64(128, __VA_ARGS__), CRC_64(192, __VA_ARGS__)}

static const uint32_t crc_tables[8][256] = {
    CRC_256(0x77073096, 0xee0e612c, 0x076dc419, 0x0edb8832, 0x1db71064, 0x3b6e20c8, 0x76dc4190, 0xedb88320),
    CRC_256(0x191b3141, 0x32366282, 0x646cc504, 0xc8d98a08, 0x4ac21251, 0x958424a2, 0xf0794f05, 0x3b83984b),
    CRC_256(0x01c26a37, 0x0384d46e, 0x0709a8dc, 0x0e1351b8, 0x1c26a370, 0x384d46e0, 0x709a8dc0, 0xe1351b80),
    CRC_256(0xb8bc6765, 0xaa09c88b, 0x8f629757, 0xc5b428ef, 0x5019579f, 0xa032af3e, 0x9b14583d, 0xed59b63b),
    CRC_256(0x3d6029b0, 0x7ac05360, 0xf580a6c0, 0x30704bc1, 0x60e09782, 0xc1c12f04, 0x58f35849, 0xb1e6b092),
    CRC_256(0xcb5cd3a5, 0x4dc8a10b, 0x9b914216, 0xec53826d, 0x03d6029b, 0x07ac0536, 0x0f580a6c, 0x1eb014d8),
    CRC_256(0xa6770bb4, 0x979f1129, 0xf44f2413, 0x33ef4e67, 0x67de9cce, 0xcfbd399c, 0x440b7579, 0x8816eaf2),
    CRC_256(0xccaa009e, 0x4225077d, 0x844a0efa, 0xd3e51bb5, 0x7cbb312b, 0xf9766256, 0x299dc2ed, 0x533b85da),
};

static inline uint64_t
little_endian(const unsigned char *bytes, int count)
{
    uint64_t word = 0;
    for (int i = 0; i < count; i++) {
        word |= (uint64_t)bytes[i] << (8 * i);
    }
    return word;
}

static inline uint32_t
crc32_of(const char *key, size_t length)
{
    const unsigned char *bytes = (const unsigned char *)key;
    uint32_t crc = ~0u;
    for (; length >= 8; length -= 8, bytes += 8) {
        uint64_t word = little_endian(bytes, 8) ^ crc;
        crc = 0;
        for (int i = 0; i < 8; i++) {
            crc ^= crc_tables[7 - i][word >> (8 * i) & 0xff];
        }
    }
    for (; length > 0; length--, bytes++) {
        crc = crc >> 8 ^ crc_tables[0][(crc ^ *bytes) & 0xff];
    }
    return ~crc;
}

static inline uint64_t
rotated(uint64_t word, int by)
{
    return word << by | word >> (64 - by);
}

static inline void
sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotated(v[1], 13) ^ v[0];
    v[3] = rotated(v[3], 16) ^ v[2];
    v[0] = rotated(v[0], 32) + v[3];
    v[2] += v[1];
    v[1] = rotated(v[1], 17) ^ v[2];
    v[3] = rotated(v[3], 21) ^ v[0];
    v[2] = rotated(v[2], 32);
}

/* Return 32 bits of the SipHash-1-3 of a key. */
static inline uint32_t
secret_hash(const struct secret *secret, const char *key, size_t length)
{
    const unsigned char *bytes = (const unsigned char *)key;
    uint64_t v[4] = {secret->low ^ 0x736f6d6570736575, secret->high ^ 0x646f72616e646f6d,
                     secret->low ^ 0x6c7967656e657261, secret->high ^ 0x7465646279746573};
    uint64_t last = (uint64_t)length << 56;
    for (; length >= 8; length -= 8, bytes += 8) {
        uint64_t word = little_endian(bytes, 8);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    last |= little_endian(bytes, (int)length);
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    sip_round(v);
    sip_round(v);
    sip_round(v);
    uint64_t hash = v[0] ^ v[1] ^ v[2] ^ v[3];
    return (uint32_t)(hash ^ hash >> 32);
}

#endif
