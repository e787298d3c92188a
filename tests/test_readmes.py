"""What README files show and link is there."""

import re
from pathlib import Path

import pytest
import typer.main

from edgehybrid import cli

ROOT = Path(__file__).parents[1]
PLACES = ("", "edgehybrid/*/", "benchmarks/", "profiles/", "calib/*/")
READMES = sorted(path for place in PLACES for path in ROOT.glob(f"{place}README.md"))
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(text: str) -> set[str]:
    """Of the headings of a file, as GitHub and GitLab name them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(readme: Path) -> None:
    for name, anchor in LINK.findall(readme.read_text()):
        target = readme.parent / name if name else readme
        assert target.exists(), name
        assert not anchor or anchor in anchors(target.read_text()), f"{name}#{anchor}"


def test_the_readme_only_shows_commands_that_exist() -> None:
    group = typer.main.get_command(cli.app)
    readme = (ROOT / "README.md").read_text()
    shown = [line.strip() for line in readme.splitlines() if line.strip().startswith("edgehybrid ")]
    assert len(shown) >= 5
    for line in shown:
        words = line.split("#")[0].split()[1:]
        command = group.commands[words[0]]  # type: ignore[union-attr]
        flags = {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)}
        known = flags | {"--help"}
        for word in words[1:]:
            assert not word.startswith("-") or word.split("=")[0] in known, line
