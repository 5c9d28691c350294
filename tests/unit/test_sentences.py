"""What we say when something fails is a sentence: our own words, and not those of Python or of the system."""

import ast
import re

import pytest
from steadydancer.base.plain import one_line, visible
from steadydancer.base.reason import reason
from support import ROOT

ROOMS = (
    "base", "bucket", "catalog", "commands", "dancer", "formats", "loaders", "machine", "media", "nodes", "planning", "pose",
    "quant", "report", "services", "turbo",
)  # fmt: skip
FILES = [*ROOT.glob("*.py"), *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))]
FILES = [file for file in FILES if file.name != "dev.py"]
# Their text is the system's or a Python key: "[Errno 13] …", 'weight'.
RAW = {"OSError", "IOError", "PermissionError", "FileNotFoundError", "KeyError", "LookupError", "AttributeError"}
RAW |= {"Exception", "BaseException", "UnicodeError", "UnicodeDecodeError"}
MADE_FOR_IT = {"reason", "plain", "explain", "_reason"}  # they turn an error into words
CODE_WORDS = re.compile(r"\b(\w+Error|\w*Exception|NoneType|[Tt]raceback|Errno|KeyError|stack|tensor\()\b")
NOT_YET = {"nodes/planner.py", "nodes/selector.py"}


def where(file, node) -> str:
    return f"{file.relative_to(ROOT).as_posix()}:{node.lineno}"


def said(text: ast.expr) -> str:
    """A text as it stands in the source, with … for what is only known when it runs."""
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)


def raised():
    """(file, call) of every error that is raised with a text that stands in the source."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                text = node.exc.args[0]
                if isinstance(text, ast.JoinedStr) or isinstance(getattr(text, "value", None), str):
                    yield file, node.exc, text


def test_what_we_raise_is_a_sentence_or_the_reason_in_one():
    """A sentence ends as one, with a period or a command to type. A reason ("it is damaged") begins small."""
    wrong, count = [], 0
    for file, call, text in raised():
        count += 1
        words = said(text)
        ended = words.endswith((".", "?", "…")) or re.search(r"(Run|Name one): [^:]*$", words)
        if not ended and not words.lstrip("'…")[:1].islower() and not words.startswith("'…'"):
            wrong.append(f"{where(file, call)}: {words[-80:]}")
        wrong += [f"{where(file, call)}: a word of code, '{word}'" for word in CODE_WORDS.findall(words)]
    assert count > 150
    assert not wrong, "\n".join(wrong)


def test_no_error_is_told_in_the_words_of_another():
    """raise X(str(err)) says what some library said; a sentence says what happened to the user's work."""
    wrong = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                for argument in node.exc.args:
                    if isinstance(argument, ast.Call) and ast.unparse(argument.func) in ("str", "repr"):
                        wrong.append(f"{where(file, node)}: {ast.unparse(node.exc)}")
    assert not wrong, "\n".join(wrong)


def test_no_text_of_the_system_goes_into_ours():
    """Where an OSError or a KeyError is caught by a name, that name is put into no text without `reason(…)`."""
    wrong = []
    for file in FILES:
        if file.relative_to(ROOT).as_posix() in NOT_YET:
            continue
        for handler in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(handler, ast.ExceptHandler) or not handler.name or handler.type is None:
                continue
            caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
            if RAW.isdisjoint(ast.unparse(kind) for kind in caught):
                continue
            compared = {
                id(part) for node in ast.walk(handler) if isinstance(node, ast.Compare) for part in ast.walk(node)
            }
            for node in ast.walk(handler):
                if id(node) in compared:  # looked at, and put into nothing
                    continue
                put = node.value if isinstance(node, ast.FormattedValue) else None
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("str", "print"):
                    put = node.args[0] if node.args else None
                if isinstance(put, ast.Name) and put.id == handler.name:
                    wrong.append(f"{where(file, node)}: {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


def failing(work):
    try:
        work()
    except Exception as err:
        return err


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (lambda: open("/none/of\nthis"), "/none/of\nthis: no such file or directory."),
        (lambda: open("/none/\x1b[2J"), "/none/\\x1b[2J: no such file or directory."),
        (lambda: __import__("os").rename("/none/a", "/none/b"), "/none/a → /none/b: no such file or directory."),
        (lambda: __import__("os").write(10**6, b""), "The system refused: bad file descriptor."),
        (lambda: __import__("nothing_of_this"), "The Python package nothing_of_this is missing: start this with"),
        (lambda: {}["weight"], "'weight' is missing in test_sentences.py, line "),
        (lambda: [][3], "list index out of range."),
        (lambda: (_ for _ in ()).throw(ValueError()), "Something went wrong in test_sentences.py, line "),
        (lambda: (_ for _ in ()).throw(ValueError("Say it so.")), "Say it so."),
        (lambda: (_ for _ in ()).throw(OSError("a library's words")), "a library's words."),
    ],
)  # fmt: skip
def test_an_error_of_the_system_is_a_sentence(work, sentence):
    words = reason(failing(work))
    assert words.startswith(sentence) and words.endswith(".")
    assert "Errno" not in words


@pytest.mark.parametrize(
    "letter",
    ["\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\0", "\x1b", "\x9b", "\ud83d", "\t"],
)
def test_a_name_is_one_line(letter):
    line = one_line(f"a{letter}b")
    assert len(line.splitlines()) == 1 and line.isprintable() and line.startswith("a\\") and line.endswith("b")
    line.encode()


@pytest.mark.parametrize("name", ["C:\\temp\\new.png", "Tänzerin.png", "舞.png", "👩‍👧.png", "رقص‌ها.png", "x" * 300])
def test_a_harmless_name_stays_what_it_is(name):
    assert one_line(name) == visible(name) == name


def test_a_text_keeps_its_lines_and_tabs():
    assert visible("two\r\nlines\n\tC:\\temp \x1b[31m") == "two\nlines\n\tC:\\temp \\x1b[31m"
