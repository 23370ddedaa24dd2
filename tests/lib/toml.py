"""Writes the little TOML that sapid.toml needs."""


def value(v) -> str:
    if isinstance(v, bool):
        return "true" if v else "false"
    if isinstance(v, (int, float)):
        return repr(v)
    if isinstance(v, str):
        text = v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'"{text}"'
    if isinstance(v, (list, tuple)):
        return "[" + ", ".join(value(item) for item in v) + "]"
    if isinstance(v, dict):
        return "{ " + ", ".join(f"{key(k)} = {value(item)}" for k, item in v.items()) + " }"
    raise TypeError(f"no TOML for {type(v).__name__}")


def key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else value(name)


def document(tables: dict[str, dict]) -> str:
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key(k)} = {value(v)}" for k, v in table.items()]
        lines.append("")
    return "\n".join(lines)
