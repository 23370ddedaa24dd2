/* report: names, routes and costs that processes of a pool write into memory that others read. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "channel/report.h"

static struct report *fresh(int *ret_fd)
{
    struct report *r = NULL;
    int fd = report_create();

    EXPECT(fd >= 0);
    EXPECT_INT(report_map(fd, true, &r), 0);
    if (ret_fd)
        *ret_fd = fd;
    else
        close(fd);
    return r;
}

static struct report_entry *name(struct report *r, const char *text)
{
    return report_note(r->names, REPORT_NAMES, REPORT_CLASS, 0, str_from(text), NULL);
}

TEST(a_name_has_one_entry_that_counts)
{
    struct report *r = fresh(NULL);
    struct report_view v;
    bool made = false;

    struct report_entry *e =
        report_note(r->names, REPORT_NAMES, REPORT_CLASS, 0, STR("App\\Page"), &made);
    EXPECT(e && made);
    EXPECT(report_note(r->names, REPORT_NAMES, REPORT_CLASS, 0, STR("App\\Page"), &made) == e);
    EXPECT(!made);
    EXPECT(report_read(e, &v));
    EXPECT_INT(v.kind, REPORT_CLASS);
    EXPECT_INT(v.count, 2);
    EXPECT_INT(v.flags, 0);
    EXPECT_TEXT(v.text, "App\\Page");
    /* another kind, another route: other things */
    EXPECT(report_note(r->names, REPORT_NAMES, REPORT_FILE, 0, STR("App\\Page"), NULL) != e);
    EXPECT(report_note(r->names, REPORT_NAMES, REPORT_CLASS, 1, STR("App\\Page"), NULL) != e);
    report_unmap(r);
}

TEST(texts_that_are_too_long_or_find_no_room_are_refused)
{
    struct report *r = fresh(NULL);
    char text[REPORT_TEXT_BYTES + 2];
    uint32_t kept = 0;

    memset(text, 'x', sizeof(text));
    EXPECT(!report_note(r->names, REPORT_NAMES, REPORT_CLASS, 0,
                        (struct str){ text, REPORT_TEXT_BYTES + 1 }, NULL));
    EXPECT(report_note(r->names, REPORT_NAMES, REPORT_CLASS, 0,
                       (struct str){ text, REPORT_TEXT_BYTES }, NULL));
    for (int i = 0; i < 3 * REPORT_NAMES; i++) {
        snprintf(text, sizeof(text), "Class%d", i);
        kept += name(r, text) != NULL;
    }
    EXPECT(kept > REPORT_NAMES / 2 && kept < REPORT_NAMES);
    report_unmap(r);
}

TEST(the_reason_that_was_given_most)
{
    struct report *r = fresh(NULL);
    struct report_view v;

    EXPECT(!report_find_most(r, REPORT_GUARD, &v));
    report_reason(r, REPORT_RESPAWN, STR("signal 9"));
    report_reason(r, REPORT_RESPAWN, STR("signal 9"));
    report_reason(r, REPORT_RESPAWN, STR("signal 9"));
    report_reason(r, REPORT_GUARD, STR("_GET.a"));
    report_reason(r, REPORT_GUARD, STR("_GET.b"));
    report_reason(r, REPORT_GUARD, STR("_GET.b"));
    EXPECT(report_find_most(r, REPORT_GUARD, &v));
    EXPECT_TEXT(v.text, "_GET.b");
    EXPECT_INT(v.count, 2);
    EXPECT(v.text.p == v.copy);
    report_unmap(r);
}

TEST(routes_beyond_the_room_share_one)
{
    struct report *r = fresh(NULL);
    struct report_view v;
    char text[32];
    uint32_t first = report_find_route(r, STR("GET /"));

    for (int i = 0; i < 1000; i++) {
        snprintf(text, sizeof(text), "GET /%d", i);
        EXPECT(report_find_route(r, str_from(text)) < REPORT_ROUTES);
    }
    EXPECT_INT(report_find_route(r, STR("GET /")), first);
    EXPECT_INT(report_find_route(r, STR("GET /the-last-one")), REPORT_ROUTES - 1);
    EXPECT(report_read(&r->route_names[REPORT_ROUTES - 1], &v));
    EXPECT_TEXT(v.text, "(other routes)");
    EXPECT_INT(report_get(&r->count.dropped_routes), v.count);
    EXPECT(v.count >= 1000 - REPORT_ROUTES);
    report_unmap(r);
}

TEST(costs_of_compared_requests_do_not_count)
{
    struct report *r = fresh(NULL);
    uint32_t route = report_find_route(r, STR("GET /"));

    for (uint64_t i = 1; i <= 100; i++)
        report_rollback(r, &(struct report_cost){ route, false, i * 1000, i, 7 });
    report_rollback(r, &(struct report_cost){ route, true, 1000000000, 100000, 7 });
    EXPECT_INT(report_get(&r->count.rollbacks), 101);
    EXPECT_INT(report_get(&r->count.rollback_ns), 5050 * 1000);
    EXPECT_INT(report_get(&r->count.rollback_max_ns), 100000);
    EXPECT_INT(report_get(&r->count.pages), 5050);
    EXPECT_INT(report_get(&r->routes[route].requests), 101);
    EXPECT_INT(report_get(&r->routes[route].pages_max), 100);
    report_unmap(r);
}

TEST(percentiles_are_right_to_a_fifth)
{
    struct report *r = fresh(NULL);
    const double percents[] = { 1, 10, 50, 90, 99, 100 };

    EXPECT_INT(report_rollback_percentile_ns(r, 50), 0);
    for (uint64_t i = 1; i <= 10000; i++)
        report_rollback(r, &(struct report_cost){ 0, false, i * 500, 1, 1 });
    for (size_t i = 0; i < ARRAY_LENGTH(percents); i++) {
        double right = percents[i] * 100 * 500;
        double found = (double)report_rollback_percentile_ns(r, percents[i]);
        EXPECT(found >= right * 0.99 && found <= right * 1.26);
    }
    EXPECT_INT(report_rollback_percentile_ns(r, 100), 5000000);
    report_unmap(r);
    r = fresh(NULL); /* the ends of the scale */
    report_rollback(r, &(struct report_cost){ 0, false, 0, 1, 1 });
    report_rollback(r, &(struct report_cost){ 0, false, UINT64_MAX / 2, 1, 1 });
    EXPECT(report_rollback_percentile_ns(r, 50) <= 320);
    EXPECT(report_rollback_percentile_ns(r, 100) > 1000000000);
    report_unmap(r);
}

TEST(the_next_generation_inherits_names_that_count)
{
    struct report *from = fresh(NULL), *r = fresh(NULL);
    struct report_view v;

    name(from, "Kept");
    atomic_store(&name(from, "Kept")->flags, REPORT_TRIED | REPORT_BANNED);
    atomic_store(&name(from, "Gone")->count, 0);
    report_find_route(from, STR("GET /"));
    atomic_store(&from->count.renewals, 3);
    atomic_store(&from->count.renewed_ns, 4711);
    atomic_store(&from->count.names_new, 2);
    report_inherit(r, from);
    EXPECT(report_read(name(r, "Kept"), &v));
    EXPECT_INT(v.count, 3); /* this look counts, too */
    EXPECT_INT(v.flags, REPORT_TRIED | REPORT_BANNED);
    EXPECT(report_read(name(r, "Gone"), &v));
    EXPECT_INT(v.count, 1);
    EXPECT_INT(report_get(&r->count.renewals), 3);
    EXPECT_INT(report_get(&r->count.renewed_ns), 4711);
    EXPECT_INT(report_get(&r->count.names_new), 0);
    for (uint32_t i = 0; i < REPORT_ROUTES; i++)
        EXPECT(!report_read(&r->route_names[i], &v));
    report_unmap(from);
    report_unmap(r);
}

/* Whoever may write there may write anything. */
TEST(a_reader_takes_nothing_for_granted)
{
    struct report *r = fresh(NULL);
    struct report_entry *e = name(r, "Page");
    struct report_view v;

    e->bytes = 60000;
    EXPECT(!report_read(e, &v));
    e->bytes = 4;
    e->kind = 999;
    EXPECT(!report_read(e, &v));
    e->kind = REPORT_FREE;
    EXPECT(!report_read(e, &v));
    memset(r->buckets, 0xff, sizeof(r->buckets));
    EXPECT(report_rollback_percentile_ns(r, 99) <= report_get(&r->count.rollback_max_ns));
    report_unmap(r);
}

TEST(only_files_of_that_kind_are_mapped)
{
    struct report *r = NULL, *same = NULL;
    int other = memfd_create("other", MFD_ALLOW_SEALING), fd;

    EXPECT_INT(ftruncate(other, sizeof(struct report)), 0);
    EXPECT_INT(report_map(other, false, &r), -EPROTO); /* it could shrink under the reader */
    EXPECT_INT(fcntl(other, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    EXPECT_INT(report_map(other, false, &r), -EPROTO); /* and is none */
    EXPECT(report_map(STDIN_FILENO, false, &r) < 0);
    r = fresh(&fd);
    EXPECT(ftruncate(fd, 0) < 0);
    name(r, "Page");
    EXPECT_INT(report_map(fd, false, &same), 0);
    EXPECT_INT(memcmp(r->names, same->names, sizeof(r->names)), 0);
    report_unmap(r);
    report_unmap(same);
    close(fd);
    close(other);
}

TEST(many_processes_write_at_once)
{
    enum { PROCESSES = 4, NAMES = 300, TIMES = 50 };
    struct report *r = fresh(NULL);
    struct report_view v;
    uint64_t sum = 0;
    char text[32];

    for (int p = 0; p < PROCESSES; p++) {
        pid_t pid = fork();
        EXPECT(pid >= 0);
        for (int i = 0; pid == 0 && i < NAMES * TIMES; i++) {
            snprintf(text, sizeof(text), "Class%d", i % NAMES);
            if (!name(r, text))
                _exit(1);
        }
        if (pid == 0)
            _exit(0);
    }
    for (int p = 0, status; p < PROCESSES; p++) {
        EXPECT(wait(&status) > 0);
        EXPECT_INT(status, 0);
    }
    for (uint32_t i = 0; i < REPORT_NAMES; i++)
        sum += report_read(&r->names[i], &v) ? v.count : 0;
    EXPECT_INT(sum, PROCESSES * NAMES * TIMES);
    report_unmap(r);
}
