"""Tool descriptions and tool calls, in the one form that servers give to chat templates: OpenAI's."""

from __future__ import annotations

import json
from typing import Any

from lorica.data.faults import RowError, brief


def read_tools(source: str, tools: object) -> list[Any] | None:
    """A list of tools, or JSON text of one; a bare description is wrapped as {"type": "function", "function": ...}.

    Raises:
        RowError: it is neither.
    """
    tools = _from_text(source, "tools", tools) if isinstance(tools, str) and tools.strip() else tools
    if not tools:
        return None
    if not isinstance(tools, list):
        raise RowError(f"{source}: `tools` must be a list of tool descriptions; found {brief(tools)}.")
    read = [_from_text(source, "tools", tool) if isinstance(tool, str) else tool for tool in tools]
    for tool in read:
        if not isinstance(tool, dict):
            raise RowError(f"{source}: `tools` must be a list of tool descriptions; found {brief(tool)} among them.")
    return [_wrapped(tool) for tool in read]


def read_tool_call(place: str, call: object) -> dict[str, Any]:
    """The call, wrapped likewise, with its arguments as an object: servers parse them before the template sees them.

    Raises:
        RowError: it is no object, has no name, or its arguments are not JSON.
    """
    wrapped = _wrapped(call) if isinstance(call, dict) else None
    function = wrapped.get("function") if wrapped else None
    if wrapped is None or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(f'{place}: a tool call must be {{"name": ..., "arguments": ...}}; found {brief(call)}.')
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        function = function | {"arguments": _from_text(place, "the tool call's `arguments`", arguments)}
    return wrapped | {"function": function}


def _wrapped(value: dict[str, Any]) -> dict[str, Any]:
    if "function" in value:
        return value if "type" in value else {"type": "function"} | value
    if "name" not in value:
        return value
    outer = {key: value[key] for key in ("id", "type") if key in value}
    return {"type": "function"} | outer | {"function": {k: v for k, v in value.items() if k not in outer}}


def _from_text(place: str, name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"{place}: {name} are not JSON: {brief(text)}.") from error
