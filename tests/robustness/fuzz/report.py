# SPDX-License-Identifier: Apache-2.0
"""What a campaign found, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.robustness.fuzz.campaign import Findings
from tests.robustness.fuzz.processes import Holdings
from tests.robustness.fuzz.wires import Fate

__all__ = ["print_findings"]

_GREATEST = 6
_SHOWN = 40


def print_findings(found: Findings, seed: int, console: Console) -> None:
    """Print fates by kind, what was said of failures, what the server holds, and what must not be."""
    console.print(_fates(found))
    console.print(
        f"good requests, all answers compared: {found.good}; refused {found.blamed} times for the malformed BYTES of "
        "another request in their batch, and asked again"
    )
    _print_messages("exceptions that left a step", found.raised, console)
    _print_messages("Triton's own answers that call a client's mistake its own failure", found.broken, console)
    if found.before is not None and found.after is not None:
        _print_holdings(found.before, found.after, console)
    for number, sentence in found.violations[:_SHOWN]:
        again = f"\n    python -m tests.robustness.fuzz --seed {seed} --only {number}" if number is not None else ""
        console.print(f"[red]FAILED[/red] {escape(sentence)}{again}")
    if len(found.violations) > _SHOWN:
        console.print(f"… and {len(found.violations) - _SHOWN} more")
    if not found.violations:
        console.print("[green]passed[/green]")


def _print_messages(title: str, messages: Mapping[str, Sequence[int]], console: Console) -> None:
    if messages:
        console.print(f"\n{title}:")
    for message, numbers in sorted(messages.items(), key=lambda item: -len(item[1])):
        console.print(f"  {len(numbers):5}  {escape(message)}  (e.g. {min(numbers)})")


def _fates(found: Findings) -> Table:
    fates = [fate for fate in Fate if any(seen is fate for _, seen in found.fates)]
    table = Table("kind of mutation", *(fate.value for fate in fates))
    kinds = sorted({kind for kind, _ in found.fates})
    for kind in kinds:
        table.add_row(kind, *(str(found.fates[kind, fate] or "") for fate in fates))
    table.add_section()
    table.add_row("all", *(str(sum(found.fates[kind, fate] for kind in kinds)) for fate in fates))
    return table


def _print_holdings(before: Holdings, after: Holdings, console: Console) -> None:
    table = Table("the server's processes", "after the warm-up", "at the end", "growth")
    rows = {
        "resident, MB": (before.all_rss_mb, after.all_rss_mb),
        "proportional, MB": (before.pss_mb, after.pss_mb),
        "/dev/shm, MB": (before.shm_mb, after.shm_mb),
        "open files": (before.all_files, after.all_files),
        "threads": (before.threads, after.threads),
        "processes": (len(before.processes), len(after.processes)),
    }
    for name, (then, now) in rows.items():
        table.add_row(name, f"{then:,.0f}", f"{now:,.0f}", f"{now / then - 1:+.2%}" if then else "")
    table.add_section()
    growth = {pid: mb - before.rss_mb.get(pid, 0.0) for pid, mb in after.rss_mb.items()}
    for pid in sorted(growth, key=lambda pid: -growth[pid])[:_GREATEST]:
        then, now = before.rss_mb.get(pid, 0.0), after.rss_mb[pid]
        table.add_row(f"{after.name(pid)}, MB", f"{then:,.0f}", f"{now:,.0f}", f"{growth[pid]:+.1f} MB")
    console.print(table)
