#!/usr/bin/python3
"""The house style as a test: STYLE.md's rules that a program can check.

    tests/tidy/tidy.py              all rules over the whole tree
    tests/tidy/tidy.py rooms        only the rules whose name contains "rooms"
    tests/tidy/tidy.py --fix [FILE...]   lets clang-format rewrite the C files (all, or these)
    tests/tidy/tidy.py --list

Every rule is a function that yields (path, line, message). Before it is believed it must find what is
wrong in its own bad example, and nothing in its good one (see EXAMPLES). Only the standard library and
clang-format are used. The last line is "N passed, N failed".
"""
import ast
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SKIPPED_FOLDERS = {".git", "build", "corpus", "__pycache__", "node_modules", "vendor", ".pytest_cache"}
COLUMNS = 100
SCRIPT_COLUMNS = 132
FUNCTION_LINES_NOTED = 70
FUNCTION_LINES_MAX = 100

# What each room may include besides itself (STYLE.md, "Rooms").
MAY_INCLUDE = {
    "base": set(),
    "loop": {"base"},
    "http": {"base"},
    "tls": {"base"},
    "config": {"base"},
    "channel": {"base"},
    "snapshot": {"base"},
    "php": {"base", "channel", "snapshot", "config"},
    "gateway": {"base", "loop", "http", "tls", "config", "channel"},
    "supervisor": {"base", "loop", "config", "channel"},
    "tools": {"base", "loop", "http", "tls", "config", "channel", "php"},
}
# System headers that belong to one room: what it hides.
HIDDEN = [
    (re.compile(r"sys/epoll\.h"), "loop"),
    (re.compile(r"openssl/.*"), "tls"),
    (re.compile(r"nghttp2/.*"), "http"),
    (re.compile(r"(main|Zend|TSRM|SAPI|ext)/.*|(php|SAPI|php_\w+|zend\w*)\.h"), "php"),
]
BANNED_NAMES = {"utils", "util", "misc", "common", "helpers", "helper", "stuff"}


class File:
    """One source file: its path in the tree, its lines, and for C its lines without comments and strings."""

    def __init__(self, path, text):
        self.path = path
        self.text = text
        self.lines = text.split("\n")
        self.is_c = path.endswith((".c", ".h"))
        self.is_python = path.endswith(".py") or text.startswith("#!/usr/bin/python3")
        self.is_shell = path.endswith(".sh") or text.startswith(("#!/bin/bash", "#!/bin/sh",
                                                                 "#!/usr/bin/env bash"))
        self.is_meson = os.path.basename(path) in ("meson.build", "meson_options.txt")
        parts = path.split("/")
        self.room = parts[1] if parts[0] == "src" and len(parts) > 2 else None
        self._code = None

    @property
    def code(self):
        if self._code is None:
            self._code = blank_comments_and_strings(self.text).split("\n")
        return self._code


def blank_comments_and_strings(text):
    """C text of the same shape with the inside of comments, strings and characters made spaces."""
    token = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)

    def blank(match):
        found = match.group(0)
        keep = 1 if found[0] in "\"'" else 0
        inner = re.sub(r"[^\n]", " ", found[keep:len(found) - keep])
        return found[:keep] + inner + (found[-1] if keep else "")

    return token.sub(blank, text)


def functions(f):
    """(name, first line, last line, parameters) of every C function: the body's braces stand in column 0."""
    start = None
    for i, line in enumerate(f.code):
        if line.startswith("{") and i and f.code[i - 1].rstrip().endswith(")"):
            start = i
        elif line.startswith("}") and start is not None:
            head = start - 1
            while head > 0 and f.code[head][:1] in (" ", "\t"):
                head -= 1
            name = re.search(r"(\w+)\(", f.code[head])
            yield name.group(1) if name else "?", head + 1, i + 1
            start = None


# --- the rules ---------------------------------------------------------------------------------------

def rooms_include_only_what_they_may(f):
    if not f.is_c or not (f.room or f.path.startswith("tests/unit/") or f.path == "src/main.c"):
        return
    for n, line in enumerate(f.lines, 1):
        quoted = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if quoted and f.room:
            target = quoted.group(1)
            room = target.split("/")[0] if "/" in target else None
            if room in MAY_INCLUDE:
                if room != f.room and room not in MAY_INCLUDE.get(f.room, set()):
                    allowed = " ".join(sorted(MAY_INCLUDE.get(f.room, set()))) or "nothing"
                    yield n, f'{f.room} may not include {room} (may: {allowed})'
                if room != f.room and target.endswith("_int.h"):
                    yield n, f'"{target}" is private to {room}: include "{room}/{room}.h"'
            elif target != "version.h" and f.room != "php" and not target.startswith("base/"):
                yield n, f'"{target}": write the room too, as in "{f.room}/{target}"'
        system = re.match(r'\s*#\s*include\s+[<"]([^">]+)[">]', line)
        for pattern, owner in HIDDEN if system and f.room else ():
            if pattern.fullmatch(system.group(1)) and f.room != owner and \
                    system.group(1).split("/")[0] not in MAY_INCLUDE:
                yield n, f"<{system.group(1)}> stays inside the room {owner}"


def rooms_are_known(f):
    if f.room and f.is_c and f.room not in MAY_INCLUDE:
        yield 1, f"src/{f.room} is no room of STYLE.md: add it there and to MAY_INCLUDE in tests/tidy"


def files_begin_with_what_they_are(f):
    first = f.lines[1] if f.lines[0].startswith("#!") and len(f.lines) > 1 else f.lines[0]
    if f.is_c:
        ok = first.startswith("/*") and len(first + " ".join(f.lines[1:3])) > 20
        what = "a /* comment */ that says what the file hides"
    elif f.is_python:
        ok = first.startswith(('"""', "#", 'r"""')) or not f.text.strip()
        what = "a docstring that says what the file is for"
    elif f.is_shell:
        ok = first.startswith("#")
        what = "a # comment that says what the file is for"
    else:
        return
    if not ok:
        yield 1, f"the file must begin with {what}"


def lines_fit_their_columns(f):
    """C has 100; scripts have 132, and as many as they need for a row of test data: mostly literals."""
    if not (f.is_c or f.is_python or f.is_shell or f.is_meson):
        return
    limit = COLUMNS if f.is_c else SCRIPT_COLUMNS
    for n, line in enumerate(f.lines, 1):
        if len(line) <= limit:
            continue
        literals = re.findall(r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')""", line)
        if f.is_python and sum(map(len, literals)) > len(line) / 2:
            continue
        yield n, f"{len(line)} columns, at most {limit}"


def lines_have_no_tabs_or_trailing_space(f):
    if not (f.is_c or f.is_python or f.is_shell or f.is_meson):
        return
    for n, line in enumerate(f.lines, 1):
        if line != line.rstrip():
            yield n, "space at the end of the line"
        if "\t" in line:
            yield n, "a tab: indent with spaces, write \\t in strings"
    if f.text and not f.text.endswith("\n"):
        yield len(f.lines), "the last line has no line break"


def files_are_named_after_what_they_do(f):
    stem = os.path.basename(f.path).rsplit(".", 1)[0]
    if (f.is_c or f.is_python) and stem in BANNED_NAMES:
        yield 1, f"a file called {stem} collects what belongs nowhere: name it after what it does"


def functions_are_short(f):
    if not f.is_c:
        return
    for name, first, last in functions(f):
        if last - first + 1 > FUNCTION_LINES_MAX:
            yield first, f"{name} has {last - first + 1} lines, at most {FUNCTION_LINES_MAX}"


def names_do_not_begin_with_underscore(f):
    if not f.is_c:
        return
    patterns = [
        re.compile(r"^\s*#\s*define\s+(_(?!GNU_SOURCE)\w+)"),
        re.compile(r"\b(?:struct|union|enum)\s+(_\w+)\s*\{"),
        re.compile(r"^[A-Za-z][\w \t*]*[\s*](_(?!_attribute__)\w+)\s*[(;=\[]"),
        re.compile(r"^\s+(?:const |unsigned |struct |enum |static )*[a-z]\w*\s+\**(_\w+)\s*[;=\[]"),
    ]
    for n, line in enumerate(f.code, 1):
        for pattern in patterns:
            hit = pattern.search(line)
            if hit and not line.lstrip().startswith(("return", "typedef _Atomic")):
                yield n, f"{hit.group(1)}: names beginning with _ belong to the C library"
                break


def versions_of_php_stay_outside_functions(f):
    if not f.is_c:
        return
    for name, first, last in functions(f):
        for n in range(first, last):
            if re.match(r"\s*#\s*(?:el)?if.*\b(PHP_VERSION_ID|PHP_API_VERSION|ZEND_MODULE_API_NO)\b",
                        f.lines[n]):
                yield n + 1, f"a PHP version inside {name}: give each version its own function or macro"


def nothing_is_left_undone(f):
    if not (f.is_c or f.is_python or f.is_shell) or f.path.startswith("tests/tidy/"):
        return
    for n, line in enumerate(f.lines, 1):
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
            yield n, "unfinished work belongs in an issue, not in the code"


def headers_are_guarded_by_their_path(f):
    if not (f.room and f.path.endswith(".h")):
        return
    want = "SAPID_" + re.sub(r"\W", "_", f.path[len("src/"):]).upper()
    short = re.sub(r"_(\w+?)_\1_INT_H$", r"_\1_INT_H", want)  # supervisor/supervisor_int.h
    if not re.search(rf"^#ifndef ({want}|{short})$\n#define \1$", f.text, re.M):
        yield 1, f"expected the guard #ifndef {want}, #define {want}"


def tests_do_not_sleep(f):
    if not (f.is_c and f.path.startswith("tests/")):
        return
    for n, line in enumerate(f.code, 1):
        if re.search(r"\b(sleep|usleep|nanosleep)\s*\(", line) and \
                not any("sleeps because" in near for near in f.lines[max(0, n - 4):n]):
            yield n, ("a test that sleeps is slow or flaky: wait for the condition or a counter "
                      "(or say just above why it \"sleeps because ...\")")


def tests_are_built(f):
    """A test or fuzz target that no meson.build names is never run."""
    found = re.fullmatch(r"(tests/(?:unit/\w+|fuzz))/(\w+)\.c", f.path)
    if not found:
        return
    folder, name = found.groups()
    build = os.path.join(ROOT, folder, "meson.build")
    text = open(build, encoding="utf-8").read() if os.path.exists(build) else ""
    if not re.search(rf"\b{name}\b", text):
        yield 1, f"{folder}/meson.build does not build {name}.c"


def scripts_parse(f):
    if f.is_python:
        try:
            ast.parse(f.text)
        except SyntaxError as e:
            yield e.lineno or 1, e.msg
    elif f.is_shell:
        r = subprocess.run(["bash", "-n"], input=f.text, capture_output=True, text=True)
        if r.returncode != 0:
            yield 1, r.stderr.strip().split("\n")[0]


def links_in_documents_lead_somewhere(f):
    if not f.path.endswith(".md"):
        return
    for n, line in enumerate(f.lines, 1):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", line):
            if re.match(r"[a-z]+:", target):
                continue
            at = os.path.normpath(os.path.join(ROOT, os.path.dirname(f.path), target))
            if not os.path.exists(at):
                yield n, f"{target} does not exist"


def format_is_clang_formats(files):
    """One run over all C files; a message for each file that clang-format would change."""
    c = [f.path for f in files if f.is_c]
    r = subprocess.run(["clang-format", "--dry-run", "--Werror", *c], cwd=ROOT, capture_output=True,
                       text=True)
    seen = set()
    for path, line in re.findall(r"^(\S+?):(\d+):\d+: error: code should be clang-formatted",
                                 r.stderr, re.M):
        if path not in seen:
            seen.add(path)
            yield path, int(line), f"not formatted: run tests/tidy/tidy.py --fix {path}"
    if r.returncode != 0 and not seen:
        yield ".clang-format", 1, f"clang-format: {r.stderr.strip()}"


RULES = [rooms_include_only_what_they_may, rooms_are_known, files_begin_with_what_they_are,
         lines_fit_their_columns, lines_have_no_tabs_or_trailing_space,
         files_are_named_after_what_they_do, functions_are_short,
         names_do_not_begin_with_underscore, versions_of_php_stay_outside_functions,
         nothing_is_left_undone, headers_are_guarded_by_their_path, tests_do_not_sleep,
         tests_are_built, scripts_parse, links_in_documents_lead_somewhere]

# rule: ((path, a text it must object to), (path, a text it must accept))
LONG = "static int f(void)\n{\n" + "    g();\n" * 110 + "}\n"
GUARD = "#ifndef SAPID_HTTP_URL_H\n#define SAPID_HTTP_URL_H\n"
EXAMPLES = {
    rooms_include_only_what_they_may: [
        ("src/php/a.c", '#include "gateway/gateway.h"\n', '#include "channel/channel.h"\n'),
        ("src/base/a.c", '#include "http/http.h"\n', '#include "base/str.h"\n'),
        ("src/gateway/a.c", "#include <sys/epoll.h>\n", "#include <sys/socket.h>\n"),
        ("src/gateway/a.c", '#include "http/http_int.h"\n', '#include "http/http.h"\n'),
        ("src/http/a.c", '#include "http_int.h"\n', '#include "http/http_int.h"\n'),
        ("src/supervisor/a.c", "#include <main/SAPI.h>\n", "#include <main.h>\n"),
    ],
    rooms_are_known: [("src/utils/a.c", "x", None), ("src/http/a.c", None, "x")],
    files_begin_with_what_they_are: [
        ("src/http/a.c", "#include <a.h>\n", "/* What this hides, in a sentence. */\n"),
        ("tests/a.py", "import os\n", '"""What this is for."""\n'),
        ("x.sh", "#!/bin/bash\nset -e\n", "#!/bin/bash\n# What this is for.\n"),
    ],
    lines_fit_their_columns: [("src/http/a.c", "x" * 101, "x" * 100),
                              ("a.py", "x" * 133, 'f("' + "x" * 150 + '")')],
    lines_have_no_tabs_or_trailing_space: [("a.py", "x \n", "x\n"), ("a.c", "\tx\n", "    x\n"),
                                           ("a.c", "x", "x\n")],
    files_are_named_after_what_they_do: [("src/http/utils.c", "x", None),
                                         ("src/http/url.c", None, "x")],
    functions_are_short: [("a.c", LONG, LONG.replace("    g();\n", "", 50))],
    names_do_not_begin_with_underscore: [
        ("a.c", "static int _f(void)\n", "static int f(void)\n"),
        ("a.c", "struct _x {\n", "struct x {\n    _Atomic uint32_t n;\n"),
        ("a.c", "    int _n = 1;\n", "    return _exit(1);\n"),
        ("a.c", "#define _X 1\n", '#define _GNU_SOURCE\n/* struct _x { */\n'),
    ],
    versions_of_php_stay_outside_functions: [
        ("a.c", "int f(void)\n{\n#if PHP_VERSION_ID >= 80300\n}\n",
         "#if PHP_VERSION_ID >= 80300\nint f(void)\n{\n}\n#endif\n")],
    nothing_is_left_undone: [("a.c", "/* TODO: x */\n", "/* as in `todo.c` */\n")],
    headers_are_guarded_by_their_path: [("src/http/url.h", "#ifndef URL_H\n#define URL_H\n", GUARD)],
    tests_do_not_sleep: [("tests/unit/a.c", "    usleep(1);\n", "    /* usleep(1) */\n")],
    tests_are_built: [("tests/unit/loop/test_no_such.c", "x", None),
                      ("tests/unit/loop/test_loop.c", None, "x")],
    scripts_parse: [("a.py", "def\n", "x = 1\n"), ("a.sh", "if\n", "true\n")],
    links_in_documents_lead_somewhere: [("A.md", "[x](no/such.md)\n", "[x](meson.build) [y](http://z)\n")],
}


def rule_knows_its_examples(rule):
    for path, bad, good in EXAMPLES[rule]:
        if bad is not None and not list(rule(File(path, bad))):
            yield "tests/tidy/tidy.py", 1, f"{rule.__name__} misses its bad example in {path}: {bad[:60]!r}"
        if good is not None:
            for _, message in rule(File(path, good)):
                yield "tests/tidy/tidy.py", 1, f"{rule.__name__} objects to its good example: {message}"


# --- the runner --------------------------------------------------------------------------------------

def read_tree():
    files = []
    for folder, inner, names in os.walk(ROOT):
        inner[:] = sorted(d for d in inner if d not in SKIPPED_FOLDERS and not d.startswith("build-"))
        for name in sorted(names):
            full = os.path.join(folder, name)
            path = os.path.relpath(full, ROOT)
            if os.path.islink(full) or not os.path.isfile(full) or os.path.getsize(full) > 1 << 20:
                continue
            known = name.endswith((".c", ".h", ".py", ".sh", ".md")) or name.startswith("meson")
            with open(full, "rb") as f:
                head = f.read(2)
                if not known and head != b"#!":
                    continue
                text = (head + f.read()).decode("utf-8", "replace")
            files.append(File(path, text))
    return files


def long_functions(files):
    for f in files:
        for name, first, last in functions(f) if f.is_c else ():
            if last - first + 1 > FUNCTION_LINES_NOTED:
                print(f"note {f.path}:{first}: {name} has {last - first + 1} lines "
                      f"(aim for {FUNCTION_LINES_NOTED})")


def trim_rulers(text):
    """Cuts the dashes of a ruler, a comment line that heads a section, to the width of a line."""
    def trim(match):
        over = len(match.group(0)) - COLUMNS
        dashes = len(match.group(2)) - max(over, 0)
        return f"{match.group(1)}{'-' * dashes} */" if dashes >= 3 else match.group(0)

    return re.sub(r"^(/\* -{2,} [^\n]*? )(-{3,}) \*/$", trim, text, flags=re.M)


def fix(names):
    for name in names or [f.path for f in read_tree() if f.is_c]:
        path = os.path.join(ROOT, name)
        with open(path, encoding="utf-8") as f:
            before = f.read()
        r = subprocess.run(["clang-format", f"--assume-filename={path}"], input=trim_rulers(before),
                           capture_output=True, text=True, cwd=ROOT)
        if r.returncode != 0:
            print(r.stderr, end="")
            return r.returncode
        if r.stdout != before:
            print(f"formatted {name}")
            with open(path, "w", encoding="utf-8") as f:
                f.write(r.stdout)
    return 0


def main(arguments):
    if arguments[:1] == ["--fix"]:
        return fix(arguments[1:])
    checks = {rule.__name__: rule for rule in RULES}
    checks["format_is_clang_formats"] = format_is_clang_formats
    if arguments == ["--list"]:
        print("\n".join(checks))
        return 0
    files = read_tree()
    passed = failed = 0
    for name, rule in checks.items():
        if arguments and not any(a in name for a in arguments):
            continue
        if rule in EXAMPLES:
            found = list(rule_knows_its_examples(rule))
            found += [(f.path, n, message) for f in files for n, message in rule(f)]
        else:
            found = list(rule(files))
        for path, n, message in found:
            print(f"  {path}:{n}: {message}")
        print(f"{'FAIL' if found else 'ok  '} tidy {name}")
        passed, failed = (passed, failed + 1) if found else (passed + 1, failed)
    if not arguments:
        long_functions(files)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
