"""What the whole run prints at its end: the counts of the laws."""

from __future__ import annotations

import pytest

LAWS = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LAWS] = []


@pytest.fixture
def laws(pytestconfig: pytest.Config) -> list[str]:
    """Lines for the summary of the run."""
    return pytestconfig.stash[LAWS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash[LAWS]:
        terminalreporter.section("laws of the registry")
        for line in lines:
            terminalreporter.write_line(line)
