"""The house rules that no linter knows, read from the syntax trees of the files; imports nothing of what it judges."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES_A_FILE = 500
MAX_LINES_A_FUNCTION = 60
MAX_ARGUMENTS = 6

FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "random"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {
    "torch.load": "unpickles; weights are safetensors",
    "torch.save": "pickles; weights are safetensors",
    "torch.manual_seed": "global state; pass a torch.Generator",
    "torch.seed": "global state; pass a torch.Generator",
}
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
NUMPY_RANDOM_ALLOWED = {"Generator", "default_rng", "SeedSequence", "PCG64", "Philox", "BitGenerator"}
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv"}
ENVIRONMENT_READER = Path("service/settings.py")
ARGUMENT_PER_OPTION = ("service/cli/",)
FORBIDDEN_WORDS = re.compile(r"(^|_)(tenants?|mgr|manager|utils?|helpers?|misc)(_|$)", re.IGNORECASE)
BARE_MODEL = re.compile(r"^_?models?$|(?<!meta)_model$")


def files(*trees: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for tree in trees for path in (ROOT / tree).rglob("*.py"))


PRODUCT = files("models", "service")
EVERYTHING = files("models", "service", "tests", "benchmarks")


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def at(path: Path, node: ast.AST, what: str) -> str:
    return f"{path}:{getattr(node, 'lineno', 1)}: {what}"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a chain of attributes; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def report(findings: Iterator[str]) -> None:
    found = list(findings)
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    spec = function.args
    names = [argument.arg for argument in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def only_passes(handler: ast.ExceptHandler) -> bool:
    return all(
        isinstance(statement, ast.Pass)
        or (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and statement.value.value is ...
        )
        for statement in handler.body
    )


def draws_without_generator(call: ast.Call) -> bool:
    owner, _, name = dotted(call.func).rpartition(".")
    return owner == "torch" and name in DRAWS and "generator" not in {word.arg for word in call.keywords}


def test_the_trees_that_are_judged_are_there() -> None:
    assert len(PRODUCT) > 10


@pytest.mark.parametrize("path", EVERYTHING, ids=str)
def test_a_file_fits_in_one_reading(path: Path) -> None:
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES_A_FILE, f"{path} has {lines} lines, at most {MAX_LINES_A_FILE} are allowed: split it"


def test_a_function_fits_on_one_screen() -> None:
    report(
        at(path, function, f"{function.name} has {length} lines, at most {MAX_LINES_A_FUNCTION} are allowed")
        for path in EVERYTHING
        for function in functions(parsed(path))
        if (length := (function.end_lineno or 0) - function.lineno + 1) > MAX_LINES_A_FUNCTION
    )


def test_a_function_takes_few_arguments() -> None:
    report(
        at(path, function, f"{function.name} takes {count} arguments; pass a frozen object whole")
        for path in PRODUCT
        if not path.as_posix().startswith(ARGUMENT_PER_OPTION)
        for function in functions(parsed(path))
        if (count := len(arguments(function))) > MAX_ARGUMENTS
    )


def test_every_module_opens_by_saying_what_it_is() -> None:
    report(
        at(path, tree, "opens without a docstring")
        for path in EVERYTHING
        if (tree := parsed(path)).body and not ast.get_docstring(tree)
    )


def test_nothing_unpickles_and_nothing_draws_from_global_randomness() -> None:
    report(
        at(path, node, f"imports {name}")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        for name in imported(node)
        if name.split(".")[0] in FORBIDDEN_IMPORTS or name in FORBIDDEN_ATTRIBUTES
    )


def test_nothing_evaluates_text_and_nothing_loads_code() -> None:
    report(
        at(path, node, f"calls {name}")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and (name := dotted(node.func)) in FORBIDDEN_CALLS
    )


def test_no_call_reaches_for_what_is_banned() -> None:
    report(
        at(path, node, f"{name}: {FORBIDDEN_ATTRIBUTES[name]}")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and (name := dotted(node)) in FORBIDDEN_ATTRIBUTES
    )


def test_arrays_are_read_without_pickle() -> None:
    report(
        at(path, node, "allow_pickle lets a file run code")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "allow_pickle" and not (isinstance(word.value, ast.Constant) and word.value.value is False)
    )


def test_every_draw_names_its_generator() -> None:
    report(
        at(path, node, f"{dotted(node.func)} draws without generator=")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and draws_without_generator(node)
    )


def test_numpy_draws_from_a_generator_too() -> None:
    report(
        at(path, node, f"{name} is global state; use numpy.random.Generator")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute)
        and (name := dotted(node)).startswith(("np.random.", "numpy.random."))
        and node.attr not in NUMPY_RANDOM_ALLOWED
    )


def test_product_code_does_not_assert() -> None:
    report(
        at(path, node, "assert vanishes under -O; raise an error that says what to do")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Assert)
    )


def test_no_error_is_swallowed() -> None:
    report(
        at(path, node, "an except that only passes; use contextlib.suppress of one class, or handle it")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ExceptHandler) and only_passes(node)
    )


def test_the_environment_is_read_in_one_place() -> None:
    report(
        at(path, node, f"{name}: settings.py alone reads the environment; pass the value in")
        for path in PRODUCT
        if path != ENVIRONMENT_READER
        for node in ast.walk(parsed(path))
        for name in [dotted(node), *imported(node)]
        if name in ENVIRONMENT
    )


def test_names_keep_to_the_words_of_the_house() -> None:
    report(
        f"{path}: '{part}' says nothing; name what it holds"
        for path in EVERYTHING
        for part in path.with_suffix("").parts
        if FORBIDDEN_WORDS.search(part)
    )


def test_classes_and_functions_keep_to_the_words_of_the_house() -> None:
    report(
        at(path, node, f"'{node.name}' holds a word that the house does not use")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (FORBIDDEN_WORDS.search(node.name) or node.name.endswith("Manager"))
    )


def test_the_learning_half_says_net_or_weights_but_never_model() -> None:
    report(
        at(path, node, f"'{name}': say net, weights or checkpoint")
        for path in files("models")
        for node in ast.walk(parsed(path))
        for name in ([node.id] if isinstance(node, ast.Name) else [node.arg] if isinstance(node, ast.arg) else [])
        if BARE_MODEL.search(name)
    )
