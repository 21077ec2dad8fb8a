"""Changes one decision of a module at a time, as a slip of the author would.

Mutated are comparisons, conditions, arithmetic, numbers, truth values, the choice between all and
any or between least and greatest, and statements that only have an effect: a call such as
``key.verify(…)``, a ``raise`` and a ``return`` of a value are deleted. Texts are left alone,
since most of them are wording; so are type annotations and calls of a logger.
No kept library deletes statements, which is the slip that a missing refusal test hides.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_OPPOSITES = {"any": "all", "all": "any", "min": "max", "max": "min"}
_Node = TypeVar("_Node", bound=ast.AST)
_LOGGERS = frozenset({"logger", "_LOG", "log", "warnings"})


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: the source from ``start`` to ``end`` (offsets in bytes) becomes ``after``."""

    line: int
    function: str
    """Where it is: the qualified name of the function or class, empty for the module itself."""
    before: str
    after: str
    start: int
    end: int

    def apply(self, source: bytes) -> bytes:
        """Return the source of the module with this change."""
        return source[: self.start] + self.after.encode() + source[self.end :]

    def __str__(self) -> str:
        return f"{self.function}: `{self.before}` -> `{self.after}`"


def mutants(source: bytes) -> list[Mutant]:
    """Return all mutants of a module's source, in the order of the source."""
    tree = ast.parse(source)
    walker = _Walker(source)
    walker.visit(tree)
    return sorted(walker.found, key=lambda one: (one.start, one.end, one.after))


class _Walker(ast.NodeVisitor):
    """Visits each node once; the fields that hold annotations are never entered."""

    def __init__(self, source: bytes) -> None:
        self.found: list[Mutant] = []
        self._source = source
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._name = ""

    def visit(self, node: ast.AST) -> None:
        """Collect the mutants of a node, then those of its children."""
        for after in _changed(node):
            self._add(node, after)
        for condition in _conditions(node):
            self._add(condition, ast.UnaryOp(ast.Not(), condition))
        name = getattr(node, "name", "") if isinstance(node, _NAMED) else ""
        outer = self._name
        self._name = f"{outer}.{name}".strip(".")
        for child in _children(node):
            self.visit(child)
        self._name = outer

    def _add(self, node: ast.AST, after: ast.AST) -> None:
        start = self._offset(node.lineno, node.col_offset)  # type: ignore[attr-defined]
        end = self._offset(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
        text = ast.unparse(after)
        if isinstance(after, ast.expr):
            text = f"({text})" if _needs_brackets(after) else text
        before = " ".join(self._source[start:end].decode().split())
        self.found.append(Mutant(node.lineno, self._name, before, text, start, end))  # type: ignore[attr-defined]

    def _offset(self, line: int, column: int) -> int:
        return self._lines[line - 1] + column


def _needs_brackets(node: ast.expr) -> bool:
    return not isinstance(node, ast.Constant | ast.Name | ast.Call | ast.Attribute | ast.Subscript)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    skipped = {"annotation", "returns", "type_comment", "decorator_list"}
    for name, value in ast.iter_fields(node):
        if name in skipped or _is_docstring(node):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changed(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.expr():
            yield from _changed_expression(node)
        case ast.stmt():
            yield from _changed_statement(node)


def _changed_expression(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare():
            yield from _changed_comparisons(node)
        case ast.BoolOp():
            yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.BinOp() if type(node.op) in _ARITHMETIC and not _is_type(node):
            yield _with(node, op=_ARITHMETIC[type(node.op)]())
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield ast.Constant(value + 1)
        case ast.Call(func=ast.Name(id=name)) if name in _OPPOSITES:
            yield _with(node, func=ast.Name(_OPPOSITES[name]))


def _changed_comparisons(node: ast.Compare) -> Iterator[ast.Compare]:
    for number, operator in enumerate(node.ops):
        changed = list(node.ops)
        changed[number] = _COMPARISONS[type(operator)]()
        yield _with(node, ops=changed)


def _changed_statement(node: ast.stmt) -> Iterator[ast.stmt]:
    match node:
        case ast.Expr(value=ast.Call(func=called)) if not _is_logging(called):
            yield ast.Pass()
        case ast.Expr(value=ast.Yield() | ast.YieldFrom()):
            yield ast.Pass()
        case ast.Raise() | ast.AugAssign():
            yield ast.Pass()
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()


def _conditions(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the conditions of a node that no other mutation turns round."""
    match node:
        case ast.If() | ast.While() | ast.IfExp():
            tests = [node.test]
        case ast.comprehension():
            tests = node.ifs
        case _:
            tests = []
    yield from (one for one in tests if isinstance(one, ast.Name | ast.Call | ast.Attribute))


def _is_logging(called: ast.expr) -> bool:
    return (
        isinstance(called, ast.Attribute)
        and isinstance(called.value, ast.Name)
        and called.value.id in _LOGGERS
    )


def _is_type(node: ast.BinOp) -> bool:
    """Whether ``|`` joins types, as in ``isinstance(x, int | float)``."""

    def is_name(part: ast.expr) -> bool:
        match part:
            case ast.Name(id=name):
                return name[:1].isupper() or name in {"int", "str", "bytes", "bool", "float"}
            case ast.Attribute(attr=name):
                return name[:1].isupper() and not name.isupper()
            case ast.Constant(value=None) | ast.Subscript():
                return True
            case ast.BinOp():
                return _is_type(part)
        return False

    return isinstance(node.op, ast.BitOr) and is_name(node.left) and is_name(node.right)


def _with(node: _Node, **fields: object) -> _Node:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
