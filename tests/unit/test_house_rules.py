"""Rules that no linter checks. The tests read the source files and do not import them."""

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
PROSE = (
    *("README.md", "SECURITY.md", "CHANGELOG.md", "Makefile", "Dockerfile", "docker-compose.yml"),
    *("docs/**/*.md", "deploy/**/*.yaml", ".ci/*"),
)
UNCLEAR_PHRASES = re.compile(
    r"refuses? to know|knows no(thing)?\b|whoever|\bnobody\b|\bis told\b|it is said|what came of it|expected were|"
    r"were expected",
    re.IGNORECASE,
)
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
    """Return `a.b.c` for a chain of attributes, or an empty string."""
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


def test_the_checked_trees_exist() -> None:
    assert len(PRODUCT) > 10


def test_files_are_short() -> None:
    report(
        f"{path} has {lines} lines, at most {MAX_LINES_A_FILE} are allowed"
        for path in EVERYTHING
        if (lines := len((ROOT / path).read_text(encoding="utf-8").splitlines())) > MAX_LINES_A_FILE
    )


def test_functions_are_short() -> None:
    report(
        at(path, function, f"{function.name} has {length} lines, at most {MAX_LINES_A_FUNCTION} are allowed")
        for path in EVERYTHING
        for function in functions(parsed(path))
        if (length := (function.end_lineno or 0) - function.lineno + 1) > MAX_LINES_A_FUNCTION
    )


def test_functions_take_few_arguments() -> None:
    report(
        at(path, function, f"{function.name} takes {count} arguments; group them in a dataclass")
        for path in PRODUCT
        if not path.as_posix().startswith(ARGUMENT_PER_OPTION)
        for function in functions(parsed(path))
        if (count := len(arguments(function))) > MAX_ARGUMENTS
    )


def test_every_module_has_a_docstring() -> None:
    report(
        at(path, tree, "has no docstring")
        for path in EVERYTHING
        if (tree := parsed(path)).body and not ast.get_docstring(tree)
    )


def test_nothing_imports_pickle_or_global_randomness() -> None:
    report(
        at(path, node, f"imports {name}")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        for name in imported(node)
        if name.split(".")[0] in FORBIDDEN_IMPORTS or name in FORBIDDEN_ATTRIBUTES
    )


def test_nothing_evaluates_text_as_code() -> None:
    report(
        at(path, node, f"calls {name}")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and (name := dotted(node.func)) in FORBIDDEN_CALLS
    )


def test_banned_functions_are_not_used() -> None:
    report(
        at(path, node, f"{name}: {FORBIDDEN_ATTRIBUTES[name]}")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and (name := dotted(node)) in FORBIDDEN_ATTRIBUTES
    )


def test_arrays_are_loaded_without_pickle() -> None:
    report(
        at(path, node, "allow_pickle lets a file run code")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "allow_pickle" and not (isinstance(word.value, ast.Constant) and word.value.value is False)
    )


def test_torch_draws_pass_a_generator() -> None:
    report(
        at(path, node, f"{dotted(node.func)} draws without generator=")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and draws_without_generator(node)
    )


def test_numpy_draws_use_a_generator() -> None:
    report(
        at(path, node, f"{name} is global state; use numpy.random.Generator")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute)
        and (name := dotted(node)).startswith(("np.random.", "numpy.random."))
        and node.attr not in NUMPY_RANDOM_ALLOWED
    )


def test_product_code_has_no_assert() -> None:
    report(
        at(path, node, "assert is removed by -O; raise an error that says what to do")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Assert)
    )


def test_no_exception_is_swallowed() -> None:
    report(
        at(path, node, "the handler only passes; use contextlib.suppress with one class, or handle the error")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ExceptHandler) and only_passes(node)
    )


def test_only_settings_read_the_environment() -> None:
    report(
        at(path, node, f"{name}: only settings.py reads the environment; pass the value in")
        for path in PRODUCT
        if path != ENVIRONMENT_READER
        for node in ast.walk(parsed(path))
        for name in [dotted(node), *imported(node)]
        if name in ENVIRONMENT
    )


def test_file_names_are_specific() -> None:
    report(
        f"{path}: '{part}' is not specific; name what it contains"
        for path in EVERYTHING
        for part in path.with_suffix("").parts
        if FORBIDDEN_WORDS.search(part)
    )


def test_class_and_function_names_are_specific() -> None:
    report(
        at(path, node, f"'{node.name}' is not specific; name what it does")
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (FORBIDDEN_WORDS.search(node.name) or node.name.endswith("Manager"))
    )


def test_models_says_net_or_weights_instead_of_model() -> None:
    report(
        at(path, node, f"'{name}': say net, weights or checkpoint")
        for path in files("models")
        for node in ast.walk(parsed(path))
        for name in ([node.id] if isinstance(node, ast.Name) else [node.arg] if isinstance(node, ast.arg) else [])
        if BARE_MODEL.search(name)
    )


def test_prose_is_plain_english() -> None:
    pages = [path.relative_to(ROOT) for pattern in PROSE for path in sorted(ROOT.glob(pattern))]
    report(
        f"{path}:{number}: '{found[0]}' is unclear; say in a short sentence what it does"
        for path in (*PRODUCT, *files("benchmarks"), *pages)
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1)
        if (found := UNCLEAR_PHRASES.search(line))
    )


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    linked = re.findall(r"\]\((\d{4}-[^)]+\.md)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert sorted(linked) == sorted(path.name for path in folder.glob("[0-9]*.md"))


def test_benchmarks_named_in_the_documentation_exist() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"benchmarks/\w+\.py", page.read_text(encoding="utf-8"))}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []
