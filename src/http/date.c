/*
 * HTTP dates (RFC 9110 5.6.7) by own arithmetic: independent of locale and time zone, and without
 * the locks of the C library's calendar.
 */
#include <errno.h>

#include "http/http_int.h"

static const char weekdays[] = "SunMonTueWedThuFriSat";
static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";

/* Days since 1970-01-01 of a date in the proleptic Gregorian calendar; month 1..12. The year starts
 * in March, so that the leap day is its last. */
static int64_t days_from_civil(int64_t year, int month, int day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year -
           719468;
}

static void civil_from_days(int64_t days, int64_t *ret_year, int *ret_month, int *ret_day)
{
    days += 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    int64_t day_of_era = days - era * 146097;
    int64_t year = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) /
                   365;
    int64_t day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    int64_t shifted = (5 * day_of_year + 2) / 153;
    *ret_day = (int)(day_of_year - (153 * shifted + 2) / 5 + 1);
    *ret_month = (int)(shifted < 10 ? shifted + 3 : shifted - 9);
    *ret_year = year + era * 400 + (*ret_month <= 2);
}

static char *put_digits(char *p, int64_t value, int digits)
{
    for (int i = digits - 1; i >= 0; i--) {
        p[i] = (char)('0' + value % 10);
        value /= 10;
    }
    return p + digits;
}

void http_format_date(time_t t, char out[HTTP_DATE_BYTES])
{
    /* Four-digit years only: a file from beyond is reported as the nearest date there is. */
    const int64_t least = -62135596800, most = 253402300799;
    int64_t seconds = t < least ? least : t > most ? most : t;
    int64_t days = seconds / 86400, rest = seconds % 86400, year;
    int month, day;
    if (rest < 0) {
        rest += 86400;
        days--;
    }
    civil_from_days(days, &year, &month, &day);
    int weekday = (int)(((days + 4) % 7 + 7) % 7);
    char *p = out;
    memcpy(p, weekdays + 3 * weekday, 3);
    memcpy(p + 3, ", ", 2);
    p = put_digits(p + 5, day, 2);
    *p++ = ' ';
    memcpy(p, months + 3 * (month - 1), 3);
    p[3] = ' ';
    p = put_digits(p + 4, year, 4);
    *p++ = ' ';
    p = put_digits(p, rest / 3600, 2);
    *p++ = ':';
    p = put_digits(p, rest / 60 % 60, 2);
    *p++ = ':';
    p = put_digits(p, rest % 60, 2);
    memcpy(p, " GMT", 5);
    DCHECK(p + 5 == out + HTTP_DATE_BYTES);
}

/* The parsed parts; -1: not there. */
struct parts {
    int year, month, day, hour, minute, second;
};

static int read_digits(const char *p, int digits)
{
    int value = 0;
    for (int i = 0; i < digits; i++) {
        if (!is_digit(p[i]))
            return -1;
        value = value * 10 + (p[i] - '0');
    }
    return value;
}

static int read_name(const char *p, const char *names)
{
    for (int i = 0; names[3 * i]; i++)
        if (memcmp(names + 3 * i, p, 3) == 0)
            return i + 1;
    return -1;
}

static void read_time(const char *p, struct parts *d)
{
    bool colons = p[2] == ':' && p[5] == ':';
    d->hour = colons ? read_digits(p, 2) : -1;
    d->minute = read_digits(p + 3, 2);
    d->second = read_digits(p + 6, 2);
}

/* "Sun, 06 Nov 1994 08:49:37 GMT" */
static bool read_imf(struct str s, struct parts *d)
{
    const char *p = s.p;
    if (s.n != 29 || read_name(p, weekdays) < 0 || memcmp(p + 3, ", ", 2) != 0 || p[7] != ' ' ||
        p[11] != ' ' || p[16] != ' ' || memcmp(p + 25, " GMT", 4) != 0)
        return false;
    d->day = read_digits(p + 5, 2);
    d->month = read_name(p + 8, months);
    d->year = read_digits(p + 12, 4);
    read_time(p + 17, d);
    return true;
}

/* "Sunday, 06-Nov-94 08:49:37 GMT"; years more than 50 ahead are of the last century. */
static bool read_rfc850(struct str s, struct parts *d)
{
    ptrdiff_t comma = str_find(s, ',');
    if (comma < 6 || comma > 9 || s.n != (size_t)comma + 24 || read_name(s.p, weekdays) < 0)
        return false;
    const char *p = s.p + comma + 1;
    if (p[0] != ' ' || p[3] != '-' || p[7] != '-' || p[10] != ' ' || memcmp(p + 19, " GMT", 4) != 0)
        return false;
    int64_t this_year;
    int month, day, year = read_digits(p + 8, 2);
    if (year < 0)
        return false;
    civil_from_days(time(NULL) / 86400, &this_year, &month, &day);
    int century = (int)(this_year / 100) * 100;
    d->year = century + year > this_year + 50 ? century + year - 100 : century + year;
    d->day = read_digits(p + 1, 2);
    d->month = read_name(p + 4, months);
    read_time(p + 11, d);
    return true;
}

/* "Sun Nov  6 08:49:37 1994" */
static bool read_asctime(struct str s, struct parts *d)
{
    const char *p = s.p;
    if (s.n != 24 || read_name(p, weekdays) < 0 || p[3] != ' ' || p[7] != ' ' || p[10] != ' ' ||
        p[19] != ' ')
        return false;
    d->month = read_name(p + 4, months);
    d->day = p[8] == ' ' ? read_digits(p + 9, 1) : read_digits(p + 8, 2);
    d->year = read_digits(p + 20, 4);
    read_time(p + 11, d);
    return true;
}

static int days_in_month(int year, int month)
{
    static const char days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (month == 2 && leap);
}

int http_parse_date(struct str s, time_t *ret)
{
    struct parts d;
    if (!read_imf(s, &d) && !read_rfc850(s, &d) && !read_asctime(s, &d))
        return -EINVAL;
    if (d.year < 0 || d.month < 1 || d.day < 1 || d.day > days_in_month(d.year, d.month))
        return -EINVAL;
    if (d.hour < 0 || d.hour > 23 || d.minute < 0 || d.minute > 59 || d.second < 0 || d.second > 60)
        return -EINVAL;
    *ret = (time_t)(days_from_civil(d.year, d.month, d.day) * 86400 + d.hour * 3600 +
                    d.minute * 60 + d.second);
    return 0;
}
