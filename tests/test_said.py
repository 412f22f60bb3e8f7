"""What is kept of steps of known numbers: of tests that there are, and another number is another."""

import ast

import pytest
import said
from kept import ROOT


@pytest.mark.parametrize(
    ("seen", "same"),
    [
        ("B2 says [12, 0.5000001] gains", True),
        ("B2 says [12, 0.50001] gains", False),
        ("B2 says [13, 0.5] gains", False),
        ("B2 says [12, 0.5, None] gains", False),
        ("B3 says [12, 0.5] gains", False),
    ],
)
def test_numbers_are_the_same_to_five_digits(seen: str, same: bool) -> None:
    assert said._same(seen, "B2 says [12, 0.5] gains") is same


def test_what_is_kept_is_of_tests_that_there_are() -> None:
    for path in sorted(said.FOLDER.iterdir()):
        tree = ast.parse((ROOT / "tests" / f"{path.stem}.py").read_text(encoding="utf-8"))
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {name.partition("[")[0] for name in said.sections(path)} <= tests
