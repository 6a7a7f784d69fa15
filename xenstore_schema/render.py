# SPDX-License-Identifier: GPL-2.0-or-later
"""The three renderings of the schema: Python, C and the protocol page. Text in, text out."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from xenstore_schema.model import Schema
from xenstore_schema.spec import NUMBER_MAX, Directory, Node, State

_ORIGIN = "Generated from nodes.yaml by `python -m xenstore_schema.generate`; do not edit."
_PYTHON_TYPE = {
    "state": "State",
    "bool": "bool",
    "path": "str",
    "text": "str",
    "choice": "str",
    "hex": "bytes",
    "json": "dict[str, Any]",
    "u32s": "tuple[int, ...]",
}
_NODE_FIELDS = (
    "required_from",
    "default",
    "min",
    "max",
    "max_bytes",
    "count_max",
    "choices",
    "may_be_empty",
    "initial",
    "unit",
)
_LINE_MAX = 120


def constant(name: str) -> str:
    """The constant's name for a node or directory, e.g. QUEUE_SIZE for `queue-{n}/size`."""
    return re.sub(r"[^A-Za-z0-9]+", "_", re.sub(r"\{\w\}", "", name)).strip("_").upper()


def class_name(directory: Directory) -> str:
    """VirtioBack for `virtio.back`."""
    return "".join(word.capitalize() for word in directory.name.split("."))


def ids(directory: Directory) -> list[str]:
    """The ids that the directory's path is made of, in their order."""
    return re.findall(r"\{(\w+)\}", directory.path)


# --- Python ------------------------------------------------------------------------------------------------


def python(schema: Schema) -> str:
    """nodes.py."""
    lines = [
        "# SPDX-License-Identifier: GPL-2.0-or-later",
        '"""',
        "Every node and directory, typed: a class of nodes and a table for each directory, and their paths.",
        "",
        _ORIGIN,
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "from typing import Any, Final",
        "",
        "from xenstore_schema.spec import Directory, Node, State",
        "",
        f"VERSION: Final = {schema.version}  # of the protocol",
    ]
    for directory in schema.directories:
        lines += ["", "", *_python_directory(directory)]
    tables = ", ".join(constant(directory.name) for directory in schema.directories)
    lines += ["", "", f"DIRECTORIES: Final = ({tables})"]
    return "\n".join(lines) + "\n"


def _python_directory(directory: Directory) -> Iterator[str]:
    name = class_name(directory)
    yield f"class {name}:"
    yield f'    """{directory.doc} {directory.path}"""'
    yield ""
    for node in directory.nodes:
        yield from _python_node(node)
    yield ""
    yield ""
    yield f"{constant(directory.name)}: Final = Directory("
    for field in ("name", "path", "owner"):
        yield f"    {field}={_quoted(getattr(directory, field))},"
    yield "    nodes=("
    for node in directory.nodes:
        yield f"        {name}.{constant(node.name)},"
    yield "    ),"
    yield f"    doc={_quoted(directory.doc)},"
    yield ")"
    yield ""
    yield ""
    function = constant(directory.name).lower()
    arguments = ", ".join(f"{name}: int" for name in ids(directory))
    yield f"def {function}_path(*, {arguments}) -> str:"
    yield f'    """The path of that directory, {directory.path}."""'
    yield f'    return f"{directory.path}"'
    yield ""
    yield ""
    home = _home(directory)
    yield f"def {function}_root(*, {home}: int) -> str:"
    yield f'    """The path below which a {home} domain has all its directories of that kind."""'
    yield f'    return f"{_root(directory)}"'


def _home(directory: Directory) -> str:
    """Whose domain has the directory: its owner's, except for the toolstack's records."""
    return str(re.findall(r"\{(\w+)\}", directory.path)[0])


def _root(directory: Directory) -> str:
    """The path up to the device class: /local/domain/{owner}/backend/virtio."""
    return re.sub(r"(/\{\w+\})+$", "", directory.path)


def _python_node(node: Node[Any]) -> Iterator[str]:
    """The node as a constant with its doc below, laid out as ruff would."""
    arguments = [_quoted(text) for text in (node.dir, node.name, node.type, node.writer)]
    for field in _NODE_FIELDS:
        value = getattr(node, field)
        if value is not None and value is not False and value != ():
            arguments.append(f"{field}={_python_value(value)}")
    head = f"    {constant(node.name)}: Final[Node[{_PYTHON_TYPE.get(node.type, 'int')}]] = Node("
    inner = ", ".join(arguments)
    if len(head) + len(inner) + 1 <= _LINE_MAX:
        yield f"{head}{inner})"
    elif len(inner) + 8 <= _LINE_MAX:
        yield from (head, f"        {inner}", "    )")
    else:
        yield from (head, *(f"        {argument}," for argument in arguments), "    )")
    yield from textwrap.wrap(f'"""{node.doc}"""', _LINE_MAX - 4, initial_indent="    ", subsequent_indent="    ")


def _python_value(value: object) -> str:
    if isinstance(value, State):
        return f"State.{value.name}"
    if isinstance(value, tuple):
        words = [_quoted(choice) for choice in value]
        return f"({', '.join(words)}{',' if len(words) == 1 else ''})"
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- C -----------------------------------------------------------------------------------------------------


def c_header(schema: Schema) -> str:
    """include/svq_nodes.h: plain #defines, for user space and for the kernel."""
    lines = [
        "/* SPDX-License-Identifier: GPL-2.0-or-later */",
        "/*",
        " * Names of XenStore nodes, the numbers that they may hold, and the states of XenBus.",
        f" * {_ORIGIN}",
        " *",
        " * SVQ_NODE_<directory>_<node>  name below its directory; %u stands for the queue",
        " * SVQ_PATH_<directory>         path of the directory; %u stands for each id named beside it",
        " * SVQ_MIN_, SVQ_MAX_, SVQ_BYTES_MAX_, SVQ_COUNT_MAX_, SVQ_DEFAULT_, SVQ_CHOICE_...: what it may hold",
        " */",
        "#ifndef SVQ_NODES_H",
        "#define SVQ_NODES_H",
        "",
        f"#define SVQ_PROTOCOL_VERSION {schema.version}",
        "",
        "/* Room for any node's name below its directory, its end included. */",
        f"#define SVQ_NODE_NAME_SIZE {_name_size(schema)}",
        "",
        "/* XenBus states (Xen public headers, io/xenbus.h). */",
    ]
    for state in State:
        lines.append(f"#define SVQ_STATE_{_snake(state.name)} {state.value}")
    for directory in schema.directories:
        where = constant(directory.name)
        lines += ["", f"/* {directory.doc} Ids of the path: {', '.join(ids(directory))}. */"]
        lines.append(f'#define SVQ_PATH_{where} "{_printf(directory.path)}"')
        for node in directory.nodes:
            lines += _c_node(f"{where}_{constant(node.name)}", node)
    lines += ["", "#endif"]
    return "\n".join(lines) + "\n"


def _c_node(name: str, node: Node[Any]) -> Iterator[str]:
    yield f'#define SVQ_NODE_{name} "{_printf(node.name)}"'
    suffix = {"u32": "U", "u64": "ULL"}.get(node.type, "")
    if node.min is not None:
        yield f"#define SVQ_MIN_{name} {node.min}{suffix}"
    if node.max is not None or node.type == "domid":
        yield f"#define SVQ_MAX_{name} {node.high}{suffix}"
    if node.max_bytes is not None:
        yield f"#define SVQ_BYTES_MAX_{name} {node.max_bytes}"
    if node.count_max is not None:
        yield f"#define SVQ_COUNT_MAX_{name} {node.count_max}"
    if node.default is not None:
        number = node.type in (*NUMBER_MAX, "bool")
        yield f"#define SVQ_DEFAULT_{name} " + (node.default + suffix if number else _quoted(node.default))
    for choice in node.choices:
        yield f'#define SVQ_CHOICE_{name}_{constant(choice)} "{choice}"'


def _printf(template: str) -> str:
    return re.sub(r"\{\w+\}", "%u", template)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


def _name_size(schema: Schema) -> int:
    widest = str(NUMBER_MAX["u32"])
    names = (node.name for directory in schema.directories for node in directory.nodes)
    return max(len(re.sub(r"\{\w\}", widest, name)) for name in names) + 1


# --- the protocol page -------------------------------------------------------------------------------------


def markdown(schema: Schema, template: str) -> str:
    """docs/protocol.md: the template, with that directory's nodes for each `@nodes <directory>@`."""
    text = template.replace("@origin@", _ORIGIN).replace("@version@", str(schema.version))
    for directory in schema.directories:
        mark = f"@nodes {directory.name}@"
        if text.count(mark) != 1:
            raise ValueError(f"the template must have {mark} once")
        text = text.replace(mark, "\n".join(_markdown_directory(directory)))
    return text


def _markdown_directory(directory: Directory) -> Iterator[str]:
    yield f"`{directory.path}`, owned by the {directory.owner}."
    for node in directory.nodes:
        values = node.expected + (f", in {node.unit}" if node.unit else "")
        yield ""
        yield f"**`{node.name}`**"
        yield f"- Values: {values}"
        if node.default is not None:
            yield f"- Default: {node.default}"
        elif node.required_from is None:
            yield "- Default: none, the node is optional"
        yield f"- Writer: {node.writer}"
        if node.initial is not None:
            yield f"- Initially: {node.initial or 'empty'}"
        if node.required_from is not None:
            yield f"- Required from: {node.required_from.name}"
        yield f"- Notes: {node.doc}"
