/* Lists and tables of chunk records. See chunk_table.h. */
#include "chunk_table.h"

#include <errno.h>
#include <string.h>

#define MAX_STORED_CHUNK (2 * RAFS_MAX_CHUNK_SIZE) /* compression may make it larger, but not that much */

int chunk_record_normalize(struct rafs_chunk_record *record, const struct rafs_chunk_record *chunk)
{
    *record = (struct rafs_chunk_record){
        .flags = chunk->flags & RAFS_CHUNK_COMPRESSED,
        .compressed_size = chunk->compressed_size,
        .uncompressed_size = chunk->uncompressed_size,
        .compressed_offset = chunk->compressed_offset,
        .uncompressed_offset = chunk->uncompressed_offset,
        .chunk_index = chunk->chunk_index,
    };
    memcpy(record->digest, chunk->digest, sizeof(record->digest));
    return chunk->flags & (RAFS_CHUNK_ENCRYPTED | RAFS_CHUNK_BATCH) ? -EOPNOTSUPP : 0;
}

static bool can_be(const struct rafs_chunk_record *record, const struct chunk_bounds *bounds)
{
    if (record->uncompressed_size == 0 || record->uncompressed_size > bounds->chunk_size || record->flags & ~RAFS_CHUNK_COMPRESSED)
        return false;
    if (record->compressed_size == 0 || record->compressed_size > MAX_STORED_CHUNK)
        return false;
    if (!(record->flags & RAFS_CHUNK_COMPRESSED) && record->compressed_size != record->uncompressed_size)
        return false;
    if (record->compressed_offset > bounds->compressed_size || record->compressed_size > bounds->compressed_size - record->compressed_offset)
        return false;
    return record->uncompressed_offset <= bounds->uncompressed_size &&
           record->uncompressed_size <= bounds->uncompressed_size - record->uncompressed_offset;
}

/* Where `record` ends in the uncompressed blob; 0 if it starts before `after`, or cannot be. */
static uint64_t next_end(const struct rafs_chunk_record *record, const struct chunk_bounds *bounds, uint64_t after)
{
    if (!can_be(record, bounds) || record->uncompressed_offset < after)
        return 0;
    return record->uncompressed_offset + record->uncompressed_size;
}

int chunk_list_check(const struct rafs_chunk_record *list, uint32_t count, const struct chunk_bounds *bounds, uint32_t *fault)
{
    uint64_t end = 0;

    for (uint32_t i = 0; i < count; i++) {
        *fault = list[i].chunk_index;
        end = next_end(&list[i], bounds, end);
        if (!end || list[i].chunk_index >= bounds->chunk_count || (i && list[i].chunk_index <= list[i - 1].chunk_index))
            return -EUCLEAN;
    }
    return 0;
}

int chunk_table_check(const struct rafs_chunk_record *table, const struct chunk_bounds *bounds, uint32_t *fault)
{
    uint64_t end = 0;

    for (uint32_t i = 0; i < bounds->chunk_count; i++) {
        if (!chunk_record_is_there(&table[i]))
            continue;
        *fault = i;
        end = next_end(&table[i], bounds, end);
        if (!end || table[i].chunk_index != i)
            return -EUCLEAN;
    }
    return 0;
}

int chunk_table_merge(struct rafs_chunk_record *table, const struct rafs_chunk_record *list, uint32_t count,
                      const struct chunk_bounds *bounds, uint8_t *added, uint32_t *fault)
{
    int err;

    for (uint32_t i = 0; i < count; i++) {
        const struct rafs_chunk_record *known = &table[list[i].chunk_index];
        *fault = list[i].chunk_index;
        if (chunk_record_is_there(known) && memcmp(known, &list[i], sizeof(*known)))
            return -EEXIST;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t index = list[i].chunk_index;
        if (!chunk_record_is_there(&table[index])) {
            table[index] = list[i];
            added[index / 8] |= (uint8_t)(0x80 >> (index & 7));
        }
    }
    err = chunk_table_check(table, bounds, fault);
    for (uint32_t i = 0; err && i < count; i++) {
        uint32_t index = list[i].chunk_index;
        if (added[index / 8] & 0x80 >> (index & 7))
            table[index] = (struct rafs_chunk_record){ 0 };
    }
    return err;
}
