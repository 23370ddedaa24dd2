/* The php room, with a real libphp: requests through the channel, see driver.h. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "driver.h"

static struct driver d;
static struct answer a;

TEST(hello)
{
    driver_start(&d, "", 1);
    driver_script(&d, "hello.php", "<?php header('X-Test: 1'); echo 'Hello ', $_GET['name'] ?? '?';");
    driver_get(&d, "hello.php", "name=you", &a);
    EXPECT_INT(a.status, 200);
    EXPECT_BODY(&a, "Hello you");
    EXPECT(answer_has_header(&a, "X-Test: 1"));
    EXPECT(answer_has_header(&a, "Content-type: text/html; charset=UTF-8"));
    driver_stop(&d);
}
