/*
 * Inside the audit of a boot (audit*.c): one process, thrown away afterwards, in which everything
 * that PHP does is looked at. audit.c runs it and keeps the log; audit_reads.c sees what code reads
 * of the request, audit_calls.c what it asks of internal functions, audit_streams.c what it opens.
 */
#ifndef SAPID_PHP_ENGINE_AUDIT_INT_H
#define SAPID_PHP_ENGINE_AUDIT_INT_H

#include "php/audit.h"
#include "php/engine/engine_int.h"

/* Writes that down with the place where PHP code stands now. An event of the same kind, name, value
 * and place is counted, not written again. */
void audit_note(enum audit_kind kind, struct str name, struct str value);
/* One read of the request: `key` NULL is all of it, `value` NULL absent. Only the first of each
 * counts. */
void audit_note_read(enum audit_global global, zend_string *key, const zval *value);
/* At the freeze: a copy of that array is alive, made where audit_note_copy() said. */
void audit_note_alive(enum audit_global global);
void audit_note_copy(enum audit_global global);
/* That function, or the code of a file, is about to return; `is_main`: it was called by nothing. */
void audit_returned(const zend_function *f, bool is_main);

/* audit_reads.c */
void audit_reads_install(void);
void audit_reads_finish(void);
/* The array is one of a request's, AUDIT_GLOBALS: it is not. */
enum audit_global audit_global_of(const HashTable *array);
/* As if the code had read it. */
void audit_read_key(enum audit_global global, zend_string *key);
void audit_read_all(enum audit_global global);
/* For a function that gets that value and looks into it. */
void audit_read_value(const zval *value, bool into_objects);

/* audit_calls.c */
void audit_calls_install(void);

/* audit_preload.c: behind the two above. How many functions there are whose code is not seen. */
uint32_t audit_preload_install(void);

/* audit_streams.c */
void audit_streams_install(void);

/* guards.c: calls `read` for each key that snapshot_guards has "same" for; `key` NULL is all. */
void guards_read_configured(const struct engine_setting *v, size_t n,
                            void (*read)(enum audit_global global, struct str key));

#endif
