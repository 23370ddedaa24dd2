/* CGI heads: their end is the same in every cut; what is accepted is clean lines and a status. */
#include <errno.h>

#include "http/fastcgi.h"
#include "http/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_lines(struct str lines)
{
    while (lines.n) {
        struct str line = str_cut(&lines, '\n');
        CHECK(line.n && line.p[line.n - 1] == '\r');
        line.n--;
        if (str_has_prefix(line, STR(":reason: "))) {
            CHECK(http_is_field_value(str_skip(line, 9)));
            continue;
        }
        /* Any name that nobody could read as two lines or another field's: no token, perhaps, which
         * the gateway leaves out of the answer later. */
        struct str name = str_cut(&line, ':');
        CHECK(line.p && name.n);
        for (size_t i = 0; i < name.n; i++)
            CHECK((unsigned char)name.p[i] > ' ' && name.p[i] != 0x7f);
        CHECK(!str_eq_nocase(name, STR("Status")));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct str in = { (const char *)data + 1, size - 1 };
    size_t step = (size_t)data[0] + 1, end = cgi_head_end(in, 0), looked = 0, found = 0;
    struct buf lines;
    uint16_t status = 0;

    while (looked < in.n && !found) {
        size_t have = looked + step < in.n ? looked + step : in.n;
        found = cgi_head_end(str_take(in, have), looked);
        looked = have;
    }
    CHECK(found == end && end <= in.n);
    if (!end)
        return 0;
    buf_init(&lines, 0);
    int r = cgi_parse_head(str_take(in, end), &lines, &status);
    CHECK(r == 0 || r == -EPROTO);
    if (r == 0) {
        CHECK(status >= 100 && status <= 999);
        check_lines(buf_view(&lines));
    }
    buf_fini(&lines);
    return 0;
}
