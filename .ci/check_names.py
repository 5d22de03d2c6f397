"""Names that a file may not have, and sizes that it may not exceed."""

import ast
import subprocess
import sys
from pathlib import Path

FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "stuff"}
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
REFERENCE_LINES = {"README.md": 120, "CONTRIBUTING.md": 60}
DECISION_LINES = 40


def tracked() -> list[Path]:
    """Files that git knows, or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True, check=True
    )
    return [Path(line) for line in listed.stdout.splitlines() if Path(line).exists()]


def faults(path: Path) -> list[str]:
    """Sentences on what is wrong with one file."""
    found = []
    if path.suffix == ".py" and FORBIDDEN & {path.stem, *path.parts}:
        found.append(f"{path}: a name without a noun; name it after what it holds")
    most = DECISION_LINES if path.parent == Path("docs/decisions") else REFERENCE_LINES.get(str(path))
    if most is not None and len(path.read_text().splitlines()) > most:
        found.append(f"{path}: more than {most} lines")
    if path.suffix == ".py" and path.parts[0] == "src":
        text = path.read_text()
        if len(text.splitlines()) > LONGEST_FILE:
            found.append(f"{path}: {len(text.splitlines())} lines, at most {LONGEST_FILE}; split it by noun")
        tree = ast.parse(text)
        found += [
            f"{path}:{node.lineno}: {node.name} has more than {LONGEST_FUNCTION} lines"
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and length(node) > LONGEST_FUNCTION
        ]
        names = next((ast.literal_eval(node.value) for node in tree.body if _assigns_all(node)), None)
        if names is None and path.name not in ("__init__.py", "__main__.py"):
            found.append(f"{path}: no __all__")
        elif names is not None and list(names) != sorted(names):
            found.append(f"{path}: __all__ is not sorted")
    return found


def length(function: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    words = len((ast.get_docstring(function, clean=False) or "").splitlines())
    return (function.end_lineno or 0) - function.lineno + 1 - words


def _assigns_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets)


if __name__ == "__main__":
    wrong = [fault for path in tracked() for fault in faults(path)]
    sys.stderr.write("".join(f"{fault}\n" for fault in wrong))
    sys.exit(bool(wrong))
