/*
 * The chunks of a blob that has no blob.meta (RAFS v5).
 *
 * Only bootstraps know these, each those that its files have. What one says is a list of records, sorted by
 * index. What all say that were ever opened with one cache directory is a table there, with a place for each
 * chunk (rafs/chunk_table.py); a record that nobody has told of is zero. A record has one form: the digest,
 * where the chunk lies, its index and whether it is compressed. What comes from an image or a file is checked
 * before it is believed: chunks lie in their order in the uncompressed blob and do not overlap, so that none
 * can be written over another one's bytes.
 */
#ifndef VHOSTFS_CHUNK_TABLE_H
#define VHOSTFS_CHUNK_TABLE_H
#include <stdbool.h>
#include <stdint.h>

#include "rafs_format.h"

/* The last 4096 bytes of a table file are a struct rafs_ci_header with this in its magic numbers. */
#define CHUNK_TABLE_MAGIC 0x56354354

/* What is known of a blob as a whole; compressed_size is where its chunk data ends. */
struct chunk_bounds {
    uint32_t chunk_count;
    uint32_t chunk_size;
    uint64_t compressed_size;
    uint64_t uncompressed_size;
};

static inline bool chunk_record_is_there(const struct rafs_chunk_record *record) { return record->uncompressed_size != 0; }

/* Brings a chunk record of an image into the one form. -EOPNOTSUPP: encrypted, or one of a batch. */
int chunk_record_normalize(struct rafs_chunk_record *record, const struct rafs_chunk_record *chunk);
/* 0: a list, or a table, whose records all can be. -EUCLEAN: that of chunk `fault` cannot. */
int chunk_list_check(const struct rafs_chunk_record *list, uint32_t count, const struct chunk_bounds *bounds, uint32_t *fault);
int chunk_table_check(const struct rafs_chunk_record *table, const struct chunk_bounds *bounds, uint32_t *fault);
/* Adds what a checked list has and a checked table has not, and sets its bits in `added` (as in a chunk map).
 * -EEXIST: they contradict each other about `fault`; -EUCLEAN: together they cannot be. The table is then as
 * it was. */
int chunk_table_merge(struct rafs_chunk_record *table, const struct rafs_chunk_record *list, uint32_t count,
                      const struct chunk_bounds *bounds, uint8_t *added, uint32_t *fault);
#endif
