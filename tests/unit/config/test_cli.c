/* The command line that serve and check share, and the search for the document root. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "config/config_int.h"
#include "test.h"

static struct config_cli cli;
static char *message;
static char folder[] = "/tmp/sapid-test-XXXXXX";

static int parse(const char *const *args)
{
    char *argv[32];
    int argc = 0;

    for (; args[argc]; argc++) {
        EXPECT((size_t)argc < ARRAY_LENGTH(argv));
        argv[argc] = (char *)args[argc];
    }
    return config_cli_parse(argc, argv, &cli, &message);
}

#define PARSE(...) parse((const char *const[]){ __VA_ARGS__, NULL })

static void expect_message(const char *want)
{
    EXPECT(message != NULL);
    EXPECT_STR(str_from(message), str_from(want));
    mem_free(message);
    config_cli_fini(&cli);
}

static void enter_folder(void)
{
    EXPECT(mkdtemp(folder) && chdir(folder) == 0);
}

static void leave_folder(void)
{
    char *command = mem_printf("rm -r %s", folder);
    EXPECT_INT(system(command), 0);
    mem_free(command);
}

static void touch(const char *path)
{
    char *copy = mem_strdup(path);

    for (char *slash = copy; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        EXPECT(mkdir(copy, 0755) == 0 || errno == EEXIST);
        *slash = '/';
    }
    FILE *file = fopen(path, "w");
    EXPECT(file != NULL);
    fclose(file);
    mem_free(copy);
}

TEST(options_become_overrides)
{
    EXPECT(chdir("/") == 0 && chdir("/usr") == 0);
    EXPECT_INT(PARSE("serve", "--root", "lib", "--root=/x", "--listen", "80",
                     "--listen=unix:a.sock", "--workers=3", "--user", "u", "--group", "g", "-d",
                     "a=b", "-dc.d", "--dev", "--dev"),
               0);
    static const char *const want[] = { "php.document_root=/usr/lib",
                                        "php.document_root=/x",
                                        "server.listen=80",
                                        "server.listen=unix:/usr/a.sock",
                                        "php.worker_pool_size=3",
                                        "php.user=u",
                                        "php.group=g",
                                        "php.ini.a=b",
                                        "php.ini.c.d=1",
                                        "dev=true" };
    for (size_t i = 0; i < ARRAY_LENGTH(want); i++)
        EXPECT_STR(str_from(cli.overrides[i]), str_from(want[i]));
    EXPECT(cli.overrides[ARRAY_LENGTH(want)] == NULL);
    EXPECT(cli.dev && !cli.help && !cli.config_path);
    EXPECT_TEXT(str_from(cli.base_dir), "/usr");
    config_cli_fini(&cli);
}

TEST(no_options_are_fine)
{
    EXPECT_INT(PARSE("serve"), 0);
    EXPECT(cli.overrides[0] == NULL);
    config_cli_fini(&cli);
    EXPECT_INT(PARSE("serve", "--help", "--nonsense"), 0);
    EXPECT(cli.help);
    EXPECT(strstr(config_cli_help("serve"), "--listen") &&
           strstr(config_cli_help("check"), "--reference"));
    config_cli_fini(&cli);
}

static char said[4096];

static void say(const char *line)
{
    snprintf(said, sizeof(said), "%s", line);
}

TEST(a_configuration_file_is_the_base_of_its_paths)
{
    struct config_source source;
    struct config *c;

    enter_folder();
    touch("etc/sapid.toml");
    EXPECT_INT(PARSE("check", "--config", "etc/../etc/sapid.toml", "--root", "x"), 0);
    EXPECT(str_has_suffix(str_from(cli.base_dir), STR("/etc")));
    EXPECT(str_has_suffix(str_from(cli.config_path), STR("/etc/sapid.toml")));
    EXPECT(!strstr(cli.overrides[0], "/etc/")); /* --root is relative to the current folder */
    EXPECT_INT(config_cli_load(&cli, say, &source, &c), 0);
    EXPECT_INT(source.text_bytes, 0);
    EXPECT_STR(c->file, str_from(source.name));
    config_free(c);
    config_source_fini(&source);
    unlink("etc/sapid.toml");
    EXPECT_INT(config_cli_load(&cli, say, &source, &c), -ENOENT);
    EXPECT(!c && strstr(said, "/etc/sapid.toml: cannot be read: No such file or directory"));
    config_source_fini(&source);
    config_cli_fini(&cli);
    leave_folder();
}

TEST(usage_errors_help)
{
    EXPECT_INT(PARSE("serve", "--lisen", "80"), -EINVAL);
    expect_message("serve: unknown option --lisen; did you mean --listen?");
    EXPECT_INT(PARSE("serve", "--wurst=1"), -EINVAL);
    expect_message("serve: unknown option --wurst; `sapid serve --help` lists them");
    EXPECT_INT(PARSE("serve", "--reference"), -EINVAL);
    expect_message("serve: unknown option --reference; `sapid serve --help` lists them");
    EXPECT_INT(PARSE("serve", "public"), -EINVAL);
    expect_message(
        "serve: expected an option, found \"public\"; a folder to serve is named with --root");
    EXPECT_INT(PARSE("serve", "--root"), -EINVAL);
    expect_message("serve: --root needs a value: a folder");
    EXPECT_INT(PARSE("serve", "--dev=1"), -EINVAL);
    expect_message("serve: --dev takes no value");
    EXPECT_INT(PARSE("serve", "-d", "=x"), -EINVAL);
    expect_message("serve: -d =x: expected a php.ini setting, NAME=VALUE");
    EXPECT_INT(PARSE("check", "--config", "/nonexistent.toml"), -EINVAL);
    expect_message("check: --config /nonexistent.toml: No such file or directory");
}

/* Overrides of --dev reach config_load, and a setting of one's own stays. */
TEST(dev_shows_errors_unless_told_otherwise)
{
    const char *overrides[] = { "php.ini.display_errors=0", "dev=true", NULL };
    struct config *c;
    struct config_errors errors;

    EXPECT_INT(config_load(STR("f"), STR(""), overrides, STR("/"), &c, &errors), 0);
    EXPECT(c->dev);
    EXPECT_TEXT(c->pools[0].ini.v[0].value, "0");
    EXPECT_TEXT(c->pools[0].ini.v[1].key, "display_startup_errors");
    config_free(c);
    EXPECT_INT(config_load(STR("f"), STR("dev = true\n"), NULL, STR("/"), &c, &errors), -EINVAL);
    config_free(c);
}

static void expect_root(const char *want_suffix, const char *want_word)
{
    struct config_detected d;

    EXPECT_INT(config_detect_root(folder, &d), 0);
    char *want = mem_printf("%s%s", folder, want_suffix);
    EXPECT_STR(str_from(d.root), str_from(want));
    if (!strstr(d.sentence, want_word))
        test_fail(__FILE__, __LINE__, "\"%s\" does not say %s", d.sentence, want_word);
    mem_free(want);
    config_detected_fini(&d);
}

TEST(document_roots_are_found)
{
    struct config_detected d;

    enter_folder();
    EXPECT_INT(config_detect_root(folder, &d), -ENOENT);
    EXPECT(!d.root && strstr(d.sentence, "--root"));
    config_detected_fini(&d);
    touch("index.html");
    expect_root("", "static site");
    touch("index.php");
    expect_root("", "PHP application");
    touch("htdocs/index.php");
    expect_root("/htdocs", "front controller");
    touch("web/index.php");
    expect_root("/web", "front controller");
    touch("public/index.php");
    expect_root("/public", "front controller");
    touch("load.php");
    touch("api.php");
    expect_root("", "MediaWiki");
    touch("doku.php");
    expect_root("", "DokuWiki");
    touch("bin/console");
    expect_root("/public", "Symfony");
    touch("artisan");
    expect_root("/public", "Laravel");
    touch("web/core/lib/Drupal.php");
    expect_root("/web", "Drupal");
    touch("wp-includes/version.php");
    expect_root("", "WordPress");
    leave_folder();
}

TEST(htaccess_that_denies_a_folder_is_understood)
{
    static const char *const denies[] = {
        "Require all denied", "deny from all\n",
        "# x\n<IfModule mod_authz_core.c>\n    Require all denied\r\n"
    };
    static const char *const allows[] = { "", "Require all granted\n", "# Require all denied\n",
                                          "<Files *.php>\nRequire all denied\n</Files>\n",
                                          "<FilesMatch a>\nDeny from all" };

    for (size_t i = 0; i < ARRAY_LENGTH(denies); i++)
        EXPECT(config_htaccess_denies(test_guarded(str_from(denies[i]))));
    for (size_t i = 0; i < ARRAY_LENGTH(allows); i++)
        EXPECT(!config_htaccess_denies(test_guarded(str_from(allows[i]))));
}

static void deny(const char *path)
{
    touch(path);
    FILE *file = fopen(path, "w");
    EXPECT(file && fputs("Require all denied\n", file) >= 0 && fclose(file) == 0);
}

TEST(folders_that_htaccess_denies_are_found)
{
    enter_folder();
    EXPECT(config_denied_folders(folder) == NULL);
    deny("data/.htaccess");
    deny("data/pages/.htaccess");
    deny("a/b/.htaccess");
    deny("a/c/d/.htaccess"); /* too deep to look */
    deny(".git/.htaccess");  /* hidden anyway */
    touch("open/.htaccess");
    char *list = config_denied_folders(folder);
    EXPECT_TEXT(str_from(list), "a/b/, data/");
    mem_free(list);
    EXPECT(config_denied_folders("/nonexistent") == NULL);
    leave_folder();
}
