"""What a check found, for people."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from launcher.preflight.judge import MEASURES, Fault, told
from launcher.preflight.nodes import Node


def table(nodes: Sequence[Node], faults: Sequence[Fault], seconds: float) -> Table:
    """A row for each machine; what is wrong with it has an exclamation mark."""
    wrong = {(fault.host, fault.what) for fault in faults}
    known = {name for node in nodes for name in node.values} | {what for _, what in wrong}
    shown = [name for name in MEASURES if name in known]
    out = Table(title=f"{len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}, {seconds:.0f} s", caption=_took(nodes))
    out.add_column("node")
    out.add_column("ranks", justify="right")
    for name in shown:
        out.add_column(MEASURES[name].title, justify="right")
    for node in nodes:
        cells = []
        for name in shown:
            text = told(name, node.values[name]) if name in node.values else "-"
            cells.append(f"[bold red]{text} ![/]" if (node.host, name) in wrong else text)
        host = f"[bold red]{node.host} ![/]" if any(node.host == host for host, _ in wrong) else node.host
        out.add_row(host, str(len(node.ranks)), *cells)
    return out


def _took(nodes: Sequence[Node]) -> str:
    """What is the same on the first machine that answers, and the longest that each measure took."""
    same = next((node.same for node in nodes if node.same), {})
    names = dict.fromkeys(name for node in nodes for name in node.seconds)
    longest = {name: max(node.seconds.get(name, 0.0) for node in nodes) for name in names}
    taken = [f"{name} {seconds:.1f}" for name, seconds in longest.items() if seconds >= 0.05]
    return f"{', '.join(f'{name} {value}' for name, value in same.items())}\nseconds: {', '.join(taken)}"


def show(nodes: Sequence[Node], faults: Sequence[Fault], seconds: float) -> None:
    """Prints the table, and a line for each fault, on stdout."""
    console = Console()
    if not console.is_terminal:
        console.width = 200
    console.print(table(nodes, faults, seconds))
    for fault in faults:
        print(fault)
