/*
 * Finding what the program loads at run time and was built with it: its modules. They lie beside
 * the program, in the build tree or where they were installed.
 */
#ifndef SAPID_BASE_MODULE_H
#define SAPID_BASE_MODULE_H

#include <stdbool.h>
#include <stddef.h>

/* Path of the module `name` of `room` (its folder in the build tree). The environment's
 * SAPID_ENGINE_DIR, a folder with all of them, beats every other place. */
bool module_find(const char *room, const char *name, char *ret, size_t size);

#endif
