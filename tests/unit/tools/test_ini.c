/* php.ini files as `sapid doctor` reads them. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "test.h"
#include "tools/doctor_int.h"

static void expect_value(const struct ini *ini, const char *name, const char *want)
{
    const char *got = ini_get(ini, name);

    if (!got || strcmp(got, want) != 0)
        test_fail(__FILE__, __LINE__, "%s is \"%s\", expected \"%s\"", name,
                  got ? got : "(not set)", want);
}

TEST(values_are_read_as_php_reads_them)
{
    struct ini ini = { 0 };

    ini_read_text(&ini, "a.ini",
                  test_guarded(STR("; a comment\n"
                                   "[PHP]\r\n"
                                   "memory_limit = 128M ; inline\n"
                                   "  display_errors=Off\n"
                                   "log_errors = YES\n"
                                   "error_reporting = E_ALL & ~E_DEPRECATED\n"
                                   "a.b = \"x;y\" ; z\n"
                                   "single = 'q'\n"
                                   "empty =\n"
                                   "no equals sign\n"
                                   "memory_limit = 256M\n"
                                   "extension = a.so\nextension=b\n"
                                   "[PATH=/www]\n"
                                   "memory_limit = 1M\n"
                                   "[opcache]\n"
                                   "last = 1")));
    expect_value(&ini, "memory_limit", "256M");
    expect_value(&ini, "display_errors", "");
    expect_value(&ini, "log_errors", "1");
    expect_value(&ini, "error_reporting", "E_ALL & ~E_DEPRECATED");
    expect_value(&ini, "a.b", "x;y");
    expect_value(&ini, "single", "q");
    expect_value(&ini, "empty", "");
    expect_value(&ini, "last", "1");
    EXPECT(ini_get(&ini, "no equals sign") == NULL);
    unsigned extensions = 0;
    for (size_t i = 0; i < ini.n; i++)
        extensions += strcmp(ini.values[i].name, "extension") == 0;
    EXPECT_INT(extensions, 2);
    ini_fini(&ini);
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    EXPECT(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* The main file, then *.ini of each folder by name; the last value of a name is the one that
 * counts. */
TEST(files_are_read_in_the_order_of_php)
{
    char dir[] = "/tmp/sapid-test-XXXXXX";
    struct ini ini;

    EXPECT(mkdtemp(dir) && chdir(dir) == 0);
    write_file("php.ini", "a = 1\nb = 1\n");
    write_file("20-x.ini", "a = 3\n");
    write_file("10-x.ini", "a = 2\nc = 2\n");
    write_file("30-x.txt", "a = 4\n");
    write_file("90.ini", "c = 5\n");
    ini_read(&ini, "php.ini", ".:/nonexistent:");
    expect_value(&ini, "a", "1"); /* php.ini is in the folder too, and the last by name */
    expect_value(&ini, "b", "1");
    expect_value(&ini, "c", "5");
    EXPECT_INT(ini.n_files, 5);
    EXPECT(ini.unreadable == NULL);
    EXPECT_TEXT(str_from(ini.files[1]), "./10-x.ini");
    ini_fini(&ini);
    char *command = mem_printf("rm -r %s", dir);
    EXPECT_INT(system(command), 0);
    mem_free(command);
}
