"""phpMyAdmin: log in as a MariaDB user, make a table, fill it, import and export."""
import re

import pytest

from lib.forms import form, forms
from lib.pages import check_assets, check_page
from lib.phpmyadmin import make_phpmyadmin

pytestmark = pytest.mark.usefixtures("quiet")

USER, PASSWORD = "pma", "secret"


@pytest.fixture(scope="module")
def server(launch_module, mariadb):
    root = make_phpmyadmin(launch_module.folder / "pma", mariadb)
    return launch_module(root, workers=3, internal=("/libraries/", "/templates/", "/tmp/"),
                         ini={"upload_max_filesize": "16M", "post_max_size": "17M"}, server={"max_body_size": "20M"})


@pytest.fixture(scope="module")
def user(server):
    s = server.session()
    page = check_page(s.get("/"), text="phpMyAdmin")
    f = form(page, id="login_form").set("pma_username", USER).set("pma_password", PASSWORD)
    check_page(f.submit(s, page), text="Server version")
    yield s
    s.close()


def token(page) -> str:
    return re.search(r'name="token" value="([^"]+)"', page.text)[1]


@pytest.fixture
def sql(mariadb):
    return lambda statement: mariadb.sql(statement, USER)


def test_log_in_page_and_wrong_password(server):
    s = server.session()
    page = check_page(s.get("/"), text="Log in")
    check_assets(s, page, 5)
    f = form(page, id="login_form").set("pma_username", USER).set("pma_password", "wrong")
    check_page(f.submit(s, page), text="Access denied")
    s.close()


def test_first_page(user):
    page = check_page(user.get("/index.php?route=/"), text="MariaDB")
    assert f"{USER}@" in page.text
    check_assets(user, page, 5)
    check_page(user.get("/index.php?route=/server/databases"), text=USER)
    check_page(user.get("/index.php?route=/server/variables"), text="innodb_buffer_pool_size")


def run_sql(user, statement):
    page = check_page(user.get(f"/index.php?route=/database/sql&db={USER}"))
    f = form(page, field="sql_query").set("sql_query", statement)
    return check_page(f.submit(user, page))


def test_create_a_table(user, sql):
    run_sql(user, "CREATE TABLE book (id INT AUTO_INCREMENT PRIMARY KEY, title VARCHAR(100) NOT NULL, price DECIMAL(6,2), note TEXT)")
    assert sql("SHOW TABLES") == [["book"]]
    page = check_page(user.get(f"/index.php?route=/table/structure&db={USER}&table=book"), text="title")
    assert "decimal(6,2)" in page.text


def test_insert_by_the_form(user, sql):
    page = check_page(user.get(f"/index.php?route=/table/change&db={USER}&table=book"))
    f = form(page, id="insertForm")
    names = [n for n in f.names() if n.startswith("fields[multi_edit][0]")]
    assert len(names) == 4
    for name, value in zip(names, ("", "Größe & <Maß>", "12.50", "two\nlines")):
        f.set(name, value)
    check_page(f.submit(user, page))
    assert sql("SELECT title, price FROM book") == [["Größe & <Maß>", "12.50"]]


def test_browse(user):
    for i in range(3):
        run_sql(user, f"INSERT INTO book (title, price) VALUES ('Book {i}', {i}.25)")
    page = check_page(user.get(f"/index.php?route=/sql&db={USER}&table=book&pos=0"), text="Book 2")
    assert "Größe &amp; &lt;Maß&gt;" in page.text and "two" in page.text


def test_ajax_answer(user):
    page = user.get("/index.php?route=/")
    r = user.post("/index.php?route=/sql", {"ajax_request": "true", "db": USER, "table": "book", "token": token(page),
                                           "sql_query": "SELECT COUNT(*) AS n FROM book"})
    assert r.status == 200 and r.header("content-type").startswith("application/json")
    assert r.json()["success"] and re.search(r"<td[^>]*>\s*(<[^>]+>)?4<", r.json()["message"])


def test_export(user):
    page = check_page(user.get(f"/index.php?route=/table/export&db={USER}&table=book&single_table=true"))
    f = next(f for f in forms(page) if "what" in f.names() or "export_type" in f.names())
    f.set("what", "sql")
    data = f.submit(user, page)
    assert data.status == 200 and "attachment" in data.header("content-disposition")
    assert "CREATE TABLE `book`" in data.text and "Größe & <Maß>" in data.text and data.text.count("Book ") >= 3


def test_import_of_a_file(user, sql):
    rows = "".join(f"INSERT INTO big VALUES ({i}, '{'x' * 200}');\n" for i in range(10_000))
    content = ("CREATE TABLE big (n INT, t VARCHAR(255));\n" + rows).encode()
    page = check_page(user.get(f"/index.php?route=/database/import&db={USER}"))
    f = form(page, field="import_file")
    done = f.submit(user, page, files=[("import_file", "big.sql", content, "application/sql")])
    check_page(done, text="Import has been successfully finished")
    assert sql("SELECT COUNT(*), MAX(n) FROM big") == [["10000", "9999"]]


def test_internal_folders_are_denied(user):
    for target in ("/libraries/vendor_config.php", "/templates/home/index.twig", "/tmp/"):
        assert user.get(target).status == 404, target


def test_sql_error_is_shown(user):
    page = run_sql(user, "SELECT * FROM no_such_table")
    assert "1146" in page.text


def test_drop(user, sql):
    run_sql(user, "DROP TABLE big")
    assert sql("SHOW TABLES") == [["book"]]


def test_log_out(user):
    page = user.get("/index.php?route=/")
    check_page(user.post("/index.php?route=/logout", {"token": token(page)}), text="Log in")
