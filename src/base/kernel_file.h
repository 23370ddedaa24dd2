/* Small files of /proc, /sys and control groups, as text. */
#ifndef SAPID_BASE_KERNEL_FILE_H
#define SAPID_BASE_KERNEL_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The whole file, as far as it fits, NUL-terminated; false, and an empty text, when it cannot be
 * read or is empty. */
bool kernel_file_read(const char *path, char *text, size_t size);
/* The same up to the end of its first line. */
bool kernel_file_line(const char *path, char *text, size_t size);
/* The number behind the first `name` in such a text; 0 when it is not there. */
uint64_t kernel_file_number(const char *text, const char *name);

#endif
