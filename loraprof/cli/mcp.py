"""``loraprof mcp``: the verbs as tools of an agent, over stdin and stdout."""

from loraprof.errors import MeasurementError


def mcp() -> None:
    """Serve profile, report, explain, compare, fix and estimate to an agent (Model Context Protocol, stdio)."""
    try:
        from loraprof.integrations.mcp import server
    except ImportError:
        raise MeasurementError("the MCP server needs the mcp package", "pip install 'loraprof[mcp]'") from None
    server().run("stdio")
