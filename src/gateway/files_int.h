/* What files.c, static.c and mime.c share. */
#ifndef SAPID_GATEWAY_FILES_INT_H
#define SAPID_GATEWAY_FILES_INT_H

#include "base/list.h"
#include "gateway/files.h"

/* Content codings whose ready-made neighbours are looked for, best first where the client does not
 * care. */
enum coding { CODING_BR, CODING_ZSTD, CODING_GZIP, CODINGS, CODING_IDENTITY = CODINGS };

enum { FILE_MAGIC = 0x66696c65 };

/* An open regular file and what a response says of it, made once when it was opened. */
struct file {
    uint32_t magic;
    uint32_t refs; /* the cache's and one for each plan */
    int fd;
    uint64_t size, dev, ino;
    int64_t mtime_s, ctime_s;
    uint32_t mtime_ns, ctime_ns;
    struct str type;           /* Content-Type; static memory */
    uint8_t neighbours;        /* bit per coding: there when last looked */
    uint64_t neighbours_at_ns; /* 0: never looked */
    char last_modified[HTTP_DATE_BYTES];
    uint64_t used_ns;    /* when it was last asked for */
    struct files *cache; /* NULL: no longer in the cache */
    struct list recent;  /* in files->recent */
    struct file *next;   /* same hash bucket */
    uint32_t hash;
    uint32_t path_bytes;
    char path[]; /* as asked for, with the leading slash; NUL-terminated */
};

/* Opens, or finds in the cache and validates by one statx. A new reference in `*ret`; -ENOENT
 * (missing or not to be shown), -EISDIR, -EACCES, -EMFILE... `path` is normalised, is not checked
 * for hidden parts. */
MUST_USE int files_open(struct files *f, struct str path, struct file **ret);
/* The ready-made neighbour in a coding, if there is one not older than the file itself; or NULL. */
struct file *files_open_neighbour(struct files *f, struct file *file, enum coding coding);
/* Bit per coding for which there is a neighbour; looked up at most once a second. */
uint8_t files_neighbours(struct files *f, struct file *file);
/* 128 unpredictable bits in hexadecimal, for a multipart boundary. */
void files_boundary(struct files *f, char out[33]);

/* Content-Type for a file name, with charset for text; "application/octet-stream" when unknown. */
struct str mime_type(struct str path);

#endif
