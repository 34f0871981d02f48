"""Conditions over columns, as in `year >= 2000 and "Comedy" in genres`: read as Python's grammar, never run as code.

What is allowed: names of columns, numbers, texts, lists of them, comparisons, `in`, `not in`, `is None`, `and`, `or`,
`not`, and `column("a name with blanks")`. A comparison with an unknown value is neither true nor false, as in SQL, and
what is not true is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.errors import UsageError

MAX_CHARACTERS = 10_000
_COMPARE: dict[type[ast.cmpop], Any] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
    ast.Eq: ast.Eq,
    ast.NotEq: ast.NotEq,
}


def fulfil(condition: str, columns: Mapping[str, pa.Array]) -> npt.NDArray[np.bool_]:
    """Return which rows fulfil a condition.

    Args:
        condition: see the module's text.
        columns: by name, all of one length.

    Raises:
        UsageError: saying what cannot be read, which column is unknown, or what does not compare.
    """
    if len(condition) > MAX_CHARACTERS:
        raise UsageError(f"--where has {len(condition):,} characters; at most {MAX_CHARACTERS:,} are read")
    try:
        tree = ast.parse(condition.strip(), mode="eval")
        found = _Reader(condition, columns).truth(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(
            f"--where {condition!r} cannot be read ({error}); write as in year >= 2000"
        ) from None
    kept: npt.NDArray[np.bool_] = pc.fill_null(found, False).to_numpy(zero_copy_only=False)
    return kept


class _Reader:
    def __init__(self, condition: str, columns: Mapping[str, pa.Array]) -> None:
        self.condition = condition
        self.columns = columns

    def truth(self, node: ast.expr) -> pa.Array:
        """Return the truth of a part in each row."""
        if isinstance(node, ast.BoolOp):
            join = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
            found = self.truth(node.values[0])
            for value in node.values[1:]:
                found = join(found, self.truth(value))
            return found
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return pc.invert(self.truth(node.operand))
        if isinstance(node, ast.Compare):
            found = None
            left = node.left
            for operator, right in zip(node.ops, node.comparators, strict=True):
                one = self.comparison(left, operator, right)
                found = one if found is None else pc.and_kleene(found, one)
                left = right
            return found
        column = self.column(node)
        if column is not None and pa.types.is_boolean(column.type):
            return column
        raise self.wrong(node, "is no condition")

    def comparison(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> pa.Array:
        """Return the truth of one comparison."""
        if isinstance(operator, ast.In | ast.NotIn):
            found = self.membership(left, right)
            return pc.invert(found) if isinstance(operator, ast.NotIn) else found
        column = self.column(left)
        if isinstance(operator, ast.Is | ast.IsNot):
            if column is None or self.literal(right) is not None:
                raise self.wrong(right, "only `is None` and `is not None` are known")
            return pc.is_null(column) if isinstance(operator, ast.Is) else pc.is_valid(column)
        if column is None:
            column, value, kind = self.column(right), self.literal(left), _MIRRORED[type(operator)]
        else:
            other, kind = self.column(right), type(operator)
            value = self.literal(right) if other is None else other
        if column is None:
            raise self.wrong(left, "compares no column")
        if value is None or isinstance(value, list):
            raise self.wrong(right, "write `is None`, or `in` for a list")
        if pa.types.is_list(column.type):
            raise self.wrong(left, 'has several values; write "VALUE" in COLUMN')
        return self.computed(left, lambda: _COMPARE[kind](column, value))

    def membership(self, left: ast.expr, right: ast.expr) -> pa.Array:
        """Return the truth of `left in right`: a value in a column of lists or texts, or a column in a list."""
        holder, column = self.column(right), self.column(left)
        if holder is not None:
            value = self.literal(left)
            if pa.types.is_list(holder.type):
                return self.computed(left, lambda: _holds(holder, value))
            if isinstance(value, str) and pa.types.is_string(holder.type):
                return pc.match_substring(holder, value)
            raise self.wrong(left, "is no text that a column of texts or lists could hold")
        values = self.literal(right)
        if column is None or not isinstance(values, list):
            raise self.wrong(right, "is no list; write COLUMN in (1, 2, 3)")
        if pa.types.is_list(column.type):
            raise self.wrong(left, 'has several values; write "VALUE" in COLUMN')
        return self.computed(
            left,
            lambda: pc.if_else(
                pc.is_valid(column), pc.is_in(column, pa.array(values).cast(column.type)), None
            ),
        )

    def column(self, node: ast.expr) -> pa.Array | None:
        """Return the column that a part names, None if it is no name.

        Raises:
            UsageError: if there is no such column.
        """
        name = None
        if isinstance(node, ast.Name):
            name = node.id
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "column":
            given = self.literal(node.args[0]) if len(node.args) == 1 and not node.keywords else None
            name = given if isinstance(given, str) else None
        if name is None:
            return None
        if name not in self.columns:
            raise UsageError(
                f"--where {self.condition!r}: there is no column {name!r}; items have {', '.join(self.columns)}"
            )
        return self.columns[name]

    def literal(self, node: ast.expr) -> Any:
        """Return a number, a text, None, or a list of them."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self.literal(node.operand)
            if isinstance(value, int | float):
                return -value
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None):
            return node.value
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            return [self.literal(part) for part in node.elts]
        raise self.wrong(node, "is no number, text or list")

    def computed(self, node: ast.expr, compute: Any) -> pa.Array:
        """Return the result, or say that the types do not compare."""
        try:
            return compute()
        except (pa.ArrowException, TypeError) as error:
            raise self.wrong(
                node, f"does not compare with this value ({str(error).splitlines()[0]})"
            ) from None

    def wrong(self, node: ast.expr, why: str) -> UsageError:
        """Return an error that names the condition and the part `node` of it that is wrong."""
        return UsageError(f"--where {self.condition!r}: {ast.unparse(node)} {why}")


def _holds(lists: pa.Array, value: Any) -> pa.Array:
    """Return which lists hold a value; null for no list."""
    rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    hits = pc.fill_null(pc.equal(pc.list_flatten(lists), value), False).to_numpy(zero_copy_only=False)
    found = np.bincount(rows[hits], minlength=len(lists)) > 0
    return pc.if_else(pc.is_valid(lists), pa.array(found), None)
