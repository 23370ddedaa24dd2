/*
 * The arena's side for the interposed calls and for the image. Addresses are whole pages.
 */
#ifndef SAPID_SNAPSHOT_ARENA_INT_H
#define SAPID_SNAPSHOT_ARENA_INT_H

#include "snapshot/snapshot_int.h"

bool snapshot_arena_has(uintptr_t start, uintptr_t end);
/* NULL: no room, the caller asks the kernel. */
void *snapshot_arena_map(void *hint, size_t bytes, int prot);
void *snapshot_arena_map_fixed(uintptr_t start, size_t bytes, int prot);
int snapshot_arena_unmap(uintptr_t start, uintptr_t end);
int snapshot_arena_protect(uintptr_t start, uintptr_t end, int prot);
void *snapshot_arena_remap(uintptr_t start, size_t old_bytes, size_t new_bytes, bool may_move);
/* The kernel is about to map something of its own there. */
int snapshot_arena_foreign(uintptr_t start, uintptr_t end);
/* Ranges in use, in order, from the `from`th on. How many were written. */
uint32_t snapshot_arena_used(struct range *ret, uint32_t max, uint32_t from);
void snapshot_arena_freeze(void);
void snapshot_arena_thaw(void);
void snapshot_arena_restore_protection(void);
void snapshot_arena_rollback(void);
void snapshot_arena_rest(void);
/* Calls for what lies between regions of the image. */
void snapshot_each_gap(uintptr_t start, uintptr_t end, bool drop,
                       void (*each)(uintptr_t start, uintptr_t end, bool drop));

#endif
