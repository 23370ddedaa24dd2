/* Which file a path means: kinds, hiding, links, freshness, bounds. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "fixture.h"
#include "gateway/files_int.h"

static struct files_match match;

static const char *const kinds[] = { "NOT_FOUND", "STATIC",    "SCRIPT",     "FRONT",
                                     "REDIRECT",  "FORBIDDEN", "UNAVAILABLE" };

static enum files_kind resolve(struct files *f, struct str path)
{
    files_resolve(f, test_guarded(path), &match);
    if (match.kind == FILES_STATIC)
        EXPECT(match.file != NULL);
    if (match.file)
        file_release(match.file); /* the cache still holds it */
    if (match.kind == FILES_SCRIPT || match.kind == FILES_FRONT)
        EXPECT(match.script_name.n > 0 && match.path_info.p != NULL);
    return match.kind;
}

static void expect_kind(struct files *f, struct str path, enum files_kind want)
{
    enum files_kind got = resolve(f, path);
    if (got != want)
        test_fail(__FILE__, __LINE__, "\"%.*s\" is %s, expected %s", STR_ARG(path), kinds[got],
                  kinds[want]);
}

static void expect_script(struct files *f, struct str path, enum files_kind kind, struct str script,
                          struct str path_info)
{
    expect_kind(f, path, kind);
    EXPECT_STR(match.script_name, script);
    EXPECT_STR(match.path_info, path_info);
}

/* A site as they are, with everything in it that must not be shown. */
static struct files *make_site(void)
{
    static const char *const plain[] = {
        "index.php",
        "about.php",
        "blog/index.php",
        "docs/index.html",
        "both/index.html",
        "both/index.php",
        "style.css",
        "x.php.jpg",
        "upload.jpg",
        "empty/readme",
        ".htaccess",
        ".git/config",
        "a/.env",
        ".well-known/security.txt",
        ".well-known/.secret",
        "a/.well-known/x",
        "LOUD.PHP",
        "b.pHp",
        "c.phtml",
        "d.phar",
        "e.php5",
        "f.php.",
        "g.php ",
        "h.php~",
        "i.php.bak",
        "j.php.SWP",
        "k.inc",
        "l.phps",
        "m.pht",
        "n.php7",
        "o.PHP.",
        "p.php. .",
        "q.php\n",
        "r.phpinfo",
        "s.graphp",
        "tphp",
        "php",
        "d.php/inner.php",
        "d.php/file.txt",
        "d.php/index.html",
        "space name.txt",
        "ä.txt",
        "back\\slash.txt",
        "..foo/x.txt",
    };
    fixture_make();
    for (size_t i = 0; i < ARRAY_LENGTH(plain); i++)
        fixture_write(plain[i], str_from(plain[i]));
    return fixture_files();
}

TEST(files_and_scripts_are_found)
{
    struct files *f = make_site();
    expect_kind(f, STR("/style.css"), FILES_STATIC);
    expect_kind(f, STR("/x.php.jpg"), FILES_STATIC);
    expect_kind(f, STR("/space name.txt"), FILES_STATIC);
    expect_kind(f, STR("/ä.txt"), FILES_STATIC);
    expect_kind(f, STR("/back\\slash.txt"), FILES_STATIC);
    expect_kind(f, STR("/docs/"), FILES_STATIC);
    expect_kind(f, STR("/docs/index.html"), FILES_STATIC);
    expect_kind(f, STR("/r.phpinfo"), FILES_STATIC);
    expect_kind(f, STR("/s.graphp"), FILES_STATIC);
    expect_kind(f, STR("/tphp"), FILES_STATIC);
    expect_kind(f, STR("/php"), FILES_STATIC);
    expect_kind(f, STR("/docs"), FILES_REDIRECT);
    expect_kind(f, STR("/empty"), FILES_REDIRECT);
    expect_kind(f, STR("/blog"), FILES_REDIRECT);
    expect_script(f, STR("/"), FILES_SCRIPT, STR("/index.php"), STR(""));
    expect_script(f, STR("/index.php"), FILES_SCRIPT, STR("/index.php"), STR(""));
    expect_script(f, STR("/about.php"), FILES_SCRIPT, STR("/about.php"), STR(""));
    expect_script(f, STR("/blog/"), FILES_SCRIPT, STR("/blog/index.php"), STR(""));
    expect_script(f, STR("/both/"), FILES_SCRIPT, STR("/both/index.php"), STR(""));
    files_free(f);
}

TEST(path_info_starts_behind_the_first_script)
{
    struct files *f = make_site();
    expect_script(f, STR("/index.php/"), FILES_SCRIPT, STR("/index.php"), STR("/"));
    expect_script(f, STR("/index.php/foo/bar"), FILES_SCRIPT, STR("/index.php"), STR("/foo/bar"));
    expect_script(f, STR("/index.php/about.php"), FILES_SCRIPT, STR("/index.php"),
                  STR("/about.php"));
    expect_script(f, STR("/index.php/.hidden/x.PHP"), FILES_SCRIPT, STR("/index.php"),
                  STR("/.hidden/x.PHP"));
    expect_script(f, STR("/blog/index.php/2020/"), FILES_SCRIPT, STR("/blog/index.php"),
                  STR("/2020/"));
    expect_script(f, STR("/d.php/inner.php"), FILES_SCRIPT, STR("/d.php/inner.php"), STR(""));
    expect_script(f, STR("/d.php/inner.php/x"), FILES_SCRIPT, STR("/d.php/inner.php"), STR("/x"));
    expect_kind(f, STR("/d.php/file.txt"), FILES_STATIC); /* a folder may be called that */
    expect_kind(f, STR("/d.php/"), FILES_STATIC);
    files_free(f);
}

TEST(front_controller_takes_what_is_not_there)
{
    struct files *f = make_site();
    expect_script(f, STR("/2024/05/hello-world/"), FILES_FRONT, STR("/index.php"), STR(""));
    expect_script(f, STR("/2024/05/hello-world"), FILES_FRONT, STR("/index.php"), STR(""));
    expect_script(f, STR("/missing.jpg"), FILES_FRONT, STR("/index.php"), STR(""));
    expect_script(f, STR("/empty/"), FILES_FRONT, STR("/index.php"), STR(""));
    expect_script(f, STR("/style.css/"), FILES_FRONT, STR("/index.php"), STR(""));
    expect_script(f, STR("/style.css/x"), FILES_FRONT, STR("/index.php"), STR(""));
    expect_kind(f, STR("/missing.php"), FILES_NOT_FOUND);
    expect_kind(f, STR("/blog/missing.php"), FILES_NOT_FOUND);
    expect_kind(f, STR("/missing.PHP"), FILES_NOT_FOUND);
    expect_kind(f, STR("/missing.php/info"), FILES_NOT_FOUND);
    expect_kind(f, STR("/missing.php/info/"), FILES_NOT_FOUND);
    expect_kind(f, STR("/missing.php/"), FILES_NOT_FOUND);
    expect_script(f, STR("/.well-known/acme-challenge/x"), FILES_FRONT, STR("/index.php"), STR(""));
    files_free(f);
    fixture_pool.front_controller = STR("/blog/index.php");
    f = fixture_files();
    expect_script(f, STR("/nothing"), FILES_FRONT, STR("/blog/index.php"), STR(""));
    files_free(f);
    fixture_pool.front_controller = STR("gone.php");
    f = fixture_files();
    expect_kind(f, STR("/nothing"), FILES_NOT_FOUND);
    files_free(f);
    fixture_pool.front_controller = STR_NONE;
    f = fixture_files();
    expect_kind(f, STR("/nothing"), FILES_NOT_FOUND);
    expect_kind(f, STR("/nothing/"), FILES_NOT_FOUND);
    expect_kind(f, STR("/empty/"), FILES_NOT_FOUND);
    files_free(f);
}

TEST(dot_files_are_hidden)
{
    static const struct str hidden[] = {
        STR("/.htaccess"),
        STR("/.git/config"),
        STR("/.git/"),
        STR("/.git"),
        STR("/a/.env"),
        STR("/.missing"),
        STR("/.missing/index.php"),
        STR("/.well-known/.secret"),
        STR("/a/.well-known/x"),
        STR("/.well-known2/x"),
        STR("/..foo/x.txt"),
        STR("/.php"),
        STR("/..."),
        STR("/../index.php"),
        STR("/.."),
        STR("/."),
        STR("/./style.css"),
    };
    struct files *f = make_site();
    for (size_t i = 0; i < ARRAY_LENGTH(hidden); i++)
        expect_kind(f, hidden[i], FILES_NOT_FOUND);
    expect_kind(f, STR("/.well-known/security.txt"), FILES_STATIC);
    expect_kind(f, STR("/.well-known"), FILES_REDIRECT);
    files_free(f);
}

TEST(source_is_never_shown)
{
    static const struct str sources[] = {
        STR("/LOUD.PHP"),
        STR("/b.pHp"),
        STR("/c.phtml"),
        STR("/d.phar"),
        STR("/e.php5"),
        STR("/f.php."),
        STR("/g.php "),
        STR("/h.php~"),
        STR("/i.php.bak"),
        STR("/j.php.SWP"),
        STR("/k.inc"),
        STR("/l.phps"),
        STR("/m.pht"),
        STR("/n.php7"),
        STR("/o.PHP."),
        STR("/p.php. ."),
        STR("/q.php\n"),
        /* the same for names that are not there: on a folding file system they might be */
        STR("/index.php."),
        STR("/index.php "),
        STR("/index.PHP"),
        STR("/index.php..."),
        STR("/INDEX.PHP"),
        STR("/index.php\t"),
        STR("/index.pHp ."),
        STR("/index.php5"),
        STR("/index.php.gz"),
        STR("/index.php.bak.xz"),
        STR("/index.php~"),
        STR("/index.php.old~"),
    };
    struct files *f = make_site();
    for (size_t i = 0; i < ARRAY_LENGTH(sources); i++)
        expect_kind(f, sources[i], FILES_NOT_FOUND);
    expect_kind(f, STR("/index.php\0.jpg"), FILES_NOT_FOUND);
    expect_kind(f, STR("/upload.jpg/x.php"), FILES_NOT_FOUND); /* must not run upload.jpg */
    expect_kind(f, STR("/upload.jpg/.php"), FILES_NOT_FOUND);
    expect_kind(f, STR("/x.php.jpg/x.php"), FILES_NOT_FOUND);
    expect_kind(f, STR("/LOUD.PHP/x"), FILES_FRONT);
    expect_kind(f, STR("/index.php/../style.css"),
                FILES_SCRIPT); /* not normalised: still only path info */
    files_free(f);
}

TEST(odd_paths_do_no_harm)
{
    struct files *f = make_site();
    expect_kind(f, STR(""), FILES_NOT_FOUND);
    expect_kind(f, STR("style.css"), FILES_NOT_FOUND);
    expect_kind(f, STR("//etc/passwd"), FILES_NOT_FOUND);
    expect_kind(f, STR("/docs//index.html"), FILES_NOT_FOUND);
    static char name[FILES_PATH_MAX + 8];
    memset(name, 'x', sizeof name);
    name[0] = '/';
    expect_kind(f, (struct str){ name, 256 }, FILES_FRONT);
    expect_kind(f, (struct str){ name, 300 }, FILES_FRONT); /* ENAMETOOLONG */
    expect_kind(f, (struct str){ name, FILES_PATH_MAX - 1 }, FILES_FRONT);
    expect_kind(f, (struct str){ name, FILES_PATH_MAX }, FILES_NOT_FOUND);
    name[FILES_PATH_MAX - 2] = '/';
    expect_kind(f, (struct str){ name, FILES_PATH_MAX - 1 }, FILES_FRONT);
    CHECK(mkfifoat(fixture_fd, "pipe", 0644) == 0);
    expect_kind(f, STR("/pipe"), FILES_FRONT);
    files_free(f);
}

TEST(links_are_followed_as_other_servers_do)
{
    struct files *f = make_site();
    char outside[] = "/tmp/sapid-outside-XXXXXX", path[128];
    CHECK(mkdtemp(outside) != NULL);
    snprintf(path, sizeof path, "%s/shared.txt", outside);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    CHECK(fd >= 0 && write(fd, "shared", 6) == 6);
    close(fd);
    fixture_link("style.css", "inside.css");
    fixture_link("../style.css", "a/up.css");
    fixture_link(path, "absolute.txt");
    fixture_link(outside, "shared");
    fixture_link("loop", "loop");
    fixture_link("nowhere", "dangling");
    fixture_link("index.php", "readme.txt");
    fixture_link("LOUD.PHP", "loud.txt");
    fixture_link("style.css", "linked.php");
    fixture_link("/proc/self/root/etc/hostname", "magic.txt");
    expect_kind(f, STR("/inside.css"), FILES_STATIC);
    expect_kind(f, STR("/a/up.css"), FILES_STATIC);
    expect_kind(f, STR("/absolute.txt"), FILES_STATIC);
    expect_kind(f, STR("/shared/shared.txt"), FILES_STATIC);
    expect_kind(f, STR("/shared"), FILES_REDIRECT);
    expect_kind(f, STR("/shared/../style.css"), FILES_NOT_FOUND);
    expect_kind(f, STR("/loop"), FILES_FRONT);
    expect_kind(f, STR("/dangling"), FILES_FRONT);
    expect_kind(f, STR("/magic.txt"), FILES_FRONT);
    expect_kind(f, STR("/readme.txt"), FILES_FRONT); /* would show source */
    expect_kind(f, STR("/loud.txt"), FILES_FRONT);
    expect_kind(f, STR("/linked.php"), FILES_SCRIPT); /* runs, as any .php */
    unlink(path);
    rmdir(outside);
    files_free(f);
}

static uint64_t size_of(struct files *f, struct str path)
{
    files_resolve(f, path, &match);
    EXPECT_INT(match.kind, FILES_STATIC);
    uint64_t size = match.file->size;
    struct stat s;
    CHECK(fstat(match.file->fd, &s) == 0);
    EXPECT_INT(s.st_size, size);
    file_release(match.file);
    return size;
}

TEST(static_files_are_never_stale)
{
    struct files *f = make_site();
    fixture_write("page.txt", STR("one"));
    EXPECT_INT(size_of(f, STR("/page.txt")), 3);
    fixture_write("page.txt", STR("longer"));
    EXPECT_INT(size_of(f, STR("/page.txt")), 6);
    fixture_write("new.txt", STR("replaced"));
    CHECK(renameat(fixture_fd, "new.txt", fixture_fd, "page.txt") == 0);
    EXPECT_INT(size_of(f, STR("/page.txt")), 8);
    CHECK(unlinkat(fixture_fd, "page.txt", 0) == 0);
    expect_kind(f, STR("/page.txt"), FILES_FRONT);
    fixture_write("page.txt", STR("again"));
    EXPECT_INT(size_of(f, STR("/page.txt")), 5);
    CHECK(unlinkat(fixture_fd, "page.txt", 0) == 0);
    fixture_write("page.txt/index.html", STR("now a folder"));
    expect_kind(f, STR("/page.txt"), FILES_REDIRECT);
    files_free(f);
}

TEST(an_open_file_survives_its_replacement)
{
    struct files *f = make_site();
    struct files_match held;
    char bytes[16];
    fixture_write("held.txt", STR("old"));
    files_resolve(f, STR("/held.txt"), &held);
    EXPECT_INT(held.kind, FILES_STATIC);
    fixture_write("new.txt", STR("newer"));
    CHECK(renameat(fixture_fd, "new.txt", fixture_fd, "held.txt") == 0);
    EXPECT_INT(size_of(f, STR("/held.txt")), 5);
    EXPECT_INT(pread(held.file->fd, bytes, sizeof bytes, 0), 3);
    files_free(f); /* a plan may outlive the pool's generation */
    EXPECT_INT(pread(held.file->fd, bytes, sizeof bytes, 0), 3);
    file_release(held.file);
}

/* The hot path: a script that was there is believed for a second, without a system call. */
TEST(scripts_are_believed_for_a_second)
{
    struct files *f = make_site();
    enum files_kind script, index;
    uint64_t begin_ns;
    do { /* a busy machine may take more than a second for this much */
        fixture_write("about.php", STR("x"));
        fixture_write("blog/index.php", STR("x"));
        begin_ns = clock_monotonic_ns();
        expect_kind(f, STR("/about.php"), FILES_SCRIPT);
        expect_kind(f, STR("/blog/"), FILES_SCRIPT);
        CHECK(unlinkat(fixture_fd, "about.php", 0) == 0);
        CHECK(unlinkat(fixture_fd, "blog/index.php", 0) == 0);
        script = resolve(f, STR("/about.php"));
        index = resolve(f, STR("/blog/"));
    } while (clock_monotonic_ns() - begin_ns > NS_PER_S / 2);
    EXPECT_INT(script, FILES_SCRIPT);
    EXPECT_INT(index, FILES_SCRIPT);
    for (int i = 0; i < 20000; i++) {
        script = resolve(f, STR("/about.php"));
        index = resolve(f, STR("/blog/"));
        if (script != FILES_SCRIPT && index != FILES_SCRIPT)
            break;
        usleep(1000); /* sleeps because only the clock ends the belief */
    }
    expect_kind(f, STR("/about.php"), FILES_NOT_FOUND);
    expect_kind(f, STR("/blog/"), FILES_FRONT);
    fixture_write("about.php", STR("x"));
    expect_kind(f, STR("/about.php"), FILES_SCRIPT); /* absence is never believed */
    files_free(f);
}

static int open_descriptors(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

TEST(open_files_are_bounded)
{
    struct files *f = make_site();
    char path[32];
    int before = open_descriptors();
    for (int i = 0; i < 700; i++) {
        snprintf(path, sizeof path, "many/%d.txt", i);
        fixture_write(path, STR("x"));
    }
    for (int i = 0; i < 700; i++) {
        snprintf(path, sizeof path, "/many/%d.txt", i);
        expect_kind(f, str_from(path), FILES_STATIC);
    }
    EXPECT_INT(open_descriptors() - before, 512);
    for (int i = 699; i >= 0; i--) {
        snprintf(path, sizeof path, "/many/%d.txt", i);
        expect_kind(f, str_from(path), FILES_STATIC);
    }
    EXPECT_INT(open_descriptors() - before, 512);
    files_free(f);
    EXPECT_INT(open_descriptors(), before);
}

TEST(cached_descriptors_give_way_when_there_are_none_left)
{
    struct files *f = make_site();
    fixture_write("one.txt", STR("x"));
    fixture_write("two.txt", STR("x"));
    expect_kind(f, STR("/one.txt"), FILES_STATIC);
    int next = dup(fixture_fd);
    close(next);
    struct rlimit limit = { (rlim_t)next, (rlim_t)next };
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    expect_kind(f, STR("/two.txt"), FILES_STATIC); /* takes the place of one.txt */
    struct files_match held;
    files_resolve(f, STR("/two.txt"), &held);
    EXPECT_INT(held.kind, FILES_STATIC);
    expect_kind(f, STR("/one.txt"), FILES_UNAVAILABLE); /* two.txt is being sent */
    file_release(held.file);
    files_free(f);
}

TEST(what_may_not_be_read_is_forbidden)
{
    struct files *f = make_site();
    fixture_write("secret.txt", STR("x"));
    fixture_write("closed/index.html", STR("x"));
    fixture_write("closed/x.php", STR("x"));
    fixture_write("searchable/index.html", STR("x"));
    fixture_write("source.php", STR("x"));
    CHECK(fchmodat(fixture_fd, "secret.txt", 0600, 0) == 0);
    CHECK(fchmodat(fixture_fd, "source.php", 0600, 0) == 0);
    CHECK(fchmodat(fixture_fd, "closed", 0700, 0) == 0);
    CHECK(fchmodat(fixture_fd, "searchable", 0711, 0) == 0);
    if (geteuid() == 0)
        CHECK(seteuid(65534) == 0);
    else
        CHECK(fchmodat(fixture_fd, "secret.txt", 0, 0) == 0 &&
              fchmodat(fixture_fd, "closed", 0, 0) == 0 &&
              fchmodat(fixture_fd, "searchable", 0111, 0) == 0);
    expect_kind(f, STR("/secret.txt"), FILES_FORBIDDEN);
    expect_kind(f, STR("/closed/"), FILES_FORBIDDEN);
    expect_kind(f, STR("/closed/x.php"), FILES_FORBIDDEN);
    expect_kind(f, STR("/searchable"), FILES_REDIRECT);
    expect_kind(f, STR("/searchable/"), FILES_STATIC);
    expect_kind(f, STR("/source.php"),
                FILES_SCRIPT); /* the pool's user reads it, not the gateway */
    if (geteuid() == 65534)
        CHECK(seteuid(0) == 0);
    else
        CHECK(fchmodat(fixture_fd, "closed", 0700, 0) == 0 &&
              fchmodat(fixture_fd, "searchable", 0700, 0) == 0);
    files_free(f);
}

TEST(media_types)
{
    EXPECT_TEXT(mime_type(STR("/a/index.html")), "text/html; charset=utf-8");
    EXPECT_TEXT(mime_type(STR("/a.HTML")), "text/html; charset=utf-8");
    EXPECT_TEXT(mime_type(STR("/a.css")), "text/css; charset=utf-8");
    EXPECT_TEXT(mime_type(STR("/a.min.js")), "text/javascript; charset=utf-8");
    EXPECT_TEXT(mime_type(STR("/a.txt")), "text/plain; charset=utf-8");
    EXPECT_TEXT(mime_type(STR("/a.json")), "application/json");
    EXPECT_TEXT(mime_type(STR("/a.js.map")), "application/json");
    EXPECT_TEXT(mime_type(STR("/a.svg")), "image/svg+xml");
    EXPECT_TEXT(mime_type(STR("/a.png")), "image/png");
    EXPECT_TEXT(mime_type(STR("/a.jpg")), "image/jpeg");
    EXPECT_TEXT(mime_type(STR("/a.webp")), "image/webp");
    EXPECT_TEXT(mime_type(STR("/a.woff2")), "font/woff2");
    EXPECT_TEXT(mime_type(STR("/a.wasm")), "application/wasm");
    EXPECT_TEXT(mime_type(STR("/a.mp4")), "video/mp4");
    EXPECT_TEXT(mime_type(STR("/a.pdf")), "application/pdf");
    EXPECT_TEXT(mime_type(STR("/a.tar.gz")), "application/gzip");
    EXPECT_TEXT(mime_type(STR("/a.unheard-of")), "application/octet-stream");
    EXPECT_TEXT(mime_type(STR("/html")), "application/octet-stream");
    EXPECT_TEXT(mime_type(STR("/a.html/b")), "application/octet-stream");
    EXPECT_TEXT(mime_type(STR("/a.")), "application/octet-stream");
}
