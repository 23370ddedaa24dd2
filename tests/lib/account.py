"""Whom servers run as: root started the tests -> an unprivileged account; anybody else -> themselves."""
import grp
import os
import pwd


class Account:
    def __init__(self, name: str):
        entry = pwd.getpwnam(name)
        self.name = name
        self.uid, self.gid = entry.pw_uid, entry.pw_gid
        self.group = grp.getgrgid(entry.pw_gid).gr_name


def is_root() -> bool:
    return os.geteuid() == 0


def web() -> Account:
    """The account PHP runs as."""
    return Account("www-data" if is_root() else pwd.getpwuid(os.geteuid()).pw_name)


def give(path, account: Account | None = None) -> None:
    """Hands a folder and everything in it to the account PHP runs as."""
    if not is_root():
        return
    account = account or web()
    for folder, _, files in os.walk(path):
        os.chown(folder, account.uid, account.gid)
        for name in files:
            os.chown(os.path.join(folder, name), account.uid, account.gid, follow_symlinks=False)
    if os.path.isfile(path):
        os.chown(path, account.uid, account.gid)
