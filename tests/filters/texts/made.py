"""Good texts made by procedure: regular, but every line of them says something."""
# ruff: noqa: E501, E731, RUF001 -- lines of texts; small generators

import math
import random
import struct
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

Maker = Callable[[random.Random], str]


def _matrix(chance: random.Random) -> str:
    rows, columns = chance.randint(4, 16), chance.randint(4, 16)
    kind = chance.choice(("identity", "zeros and ones", "band", "small", "zero"))
    make: dict[str, Callable[[int, int], int]] = {
        "identity": lambda i, j: int(i == j),
        "zeros and ones": lambda i, j: chance.randint(0, 1),
        "band": lambda i, j: {0: 2, 1: -1}.get(abs(i - j), 0),
        "small": lambda i, j: chance.randint(-3, 3),
        "zero": lambda i, j: 0,
    }
    body = [[make[kind](i, j) for j in range(columns)] for i in range(rows)]
    shape = chance.choice(("plain", "latex", "list"))
    if shape == "latex":
        lines = " \\\\\n".join(" & ".join(map(str, row)) for row in body)
        return f"Let\n\\[\nA = \\begin{{pmatrix}}\n{lines}\n\\end{{pmatrix}}.\n\\]\nIts trace is {sum(r[k] for k, r in enumerate(body[:columns]))}."
    lines = "\n".join(str(row) if shape == "list" else " ".join(map(str, row)) for row in body)
    return f"We start from the {rows} by {columns} matrix\n{lines}\nand eliminate the first column."


def matrices(chance: random.Random) -> str:
    return "\n\n".join(_matrix(chance) for _ in range(chance.randint(1, 6)))


def number_runs(chance: random.Random) -> str:
    size = chance.randint(60, 400)
    which = chance.randrange(6)
    if which == 0:
        values = [n for n in range(2, 4 * size) if all(n % d for d in range(2, math.isqrt(n) + 1))]
    elif which == 1:
        values = [chance.randint(0, 9) for _ in range(size)]
    elif which == 2:
        values = [n * n for n in range(size)]
    elif which == 3:
        values = list(range(1, size))
    elif which == 4:
        values, seed = [], chance.randint(3, 9_000)
        for _ in range(size):
            values.append(seed)
            seed = seed // 2 if seed % 2 == 0 else 3 * seed + 1
            if seed == 1:
                seed = chance.randint(3, 9_000)
    else:
        values = [pow(3, n, 17) for n in range(size // 4)]
    return f"The sequence begins {', '.join(map(str, values))}, and so on. So the last one is {values[-1]}."


def truth_tables(chance: random.Random) -> str:
    tables = []
    for number in range(chance.randint(1, 6)):
        count = chance.randint(2, 5)
        names = "pqrst"[:count]
        rows = [
            [*("TF"[v] for v in row), "TF"[chance.randint(0, 1)]]
            for row in product((0, 1), repeat=count)
        ]
        head = [*names, "out"]
        body = "\n".join(
            "| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]
        )
        tables.append(f"Formula {number + 1}:\n\n{body}")
    return "\n\n".join(tables)


_ZH = (
    "第{k}步，我们将前一步得到的结果代入原方程，得到x等于{v}。",
    "第{k}步：把{a}和{b}相加，得到{v}，然后继续进行下一步计算。",
    "步骤{k}：检查第{a}行与第{b}列，可以填入的数字是{v}。",
    "当n={k}时，左边等于{a}，右边等于{b}，所以等式的差为{v}。",
)


def chinese_steps(chance: random.Random) -> str:
    shape = chance.choice(_ZH)
    steps = "".join(
        shape.format(k=k, v=chance.randint(1, 99), a=chance.randint(1, 99), b=chance.randint(1, 99))
        for k in range(1, chance.randint(6, 16))
    )
    return f"设每边长为a，先写出已知条件。{steps}答案是{chance.randint(1, 99)}。"


def cases(chance: random.Random) -> str:
    modulus = chance.choice((5, 7, 8, 9, 11, 12, 13, 16))
    power = chance.choice((2, 3, 4))
    sentence = chance.choice((
        "Case {k}: n ≡ {k} (mod {m}). Then n^{p} ≡ {v} (mod {m}), so this case {s}.",
        "Suppose that n leaves the remainder {k} when divided by {m}. Its power n^{p} leaves {v}. This {s}.",
        "If n = {m}q + {k}, then n^{p} = {m}(...) + {v}, which {s}.",
    ))  # fmt: skip
    lines = [
        sentence.format(k=k, m=modulus, p=power, v=k**power % modulus,
                        s="is possible" if k**power % modulus in (0, 1) else "is impossible")
        for k in range(modulus)
    ]  # fmt: skip
    return (
        "We distinguish the cases.\n\n"
        + chance.choice(("\n", "\n\n")).join(lines)
        + "\n\nThis proves it."
    )


def times_tables(chance: random.Random) -> str:
    sign = chance.choice(("×", "x", "*", "\\times"))
    return "\n\n".join(
        "\n".join(f"{a} {sign} {b} = {a * b}" for b in range(1, 13))
        for a in chance.sample(range(2, 20), chance.randint(2, 8))
    )


def conversions(chance: random.Random) -> str:
    name, other, factor = chance.choice(
        (("kilometres", "miles", 0.621371), ("kg", "pounds", 2.204623), ("inches", "cm", 2.54),
         ("litres", "gallons", 0.264172))
    )  # fmt: skip
    step = chance.choice((1, 5, 10, 25))
    shape = chance.choice(
        ("{a} {n} = {b:.2f} {o}", "- {a} {n} is about {b:.1f} {o}.", "| {a} {n} | {b:.3f} {o} |")
    )
    return "Here is the list:\n" + "\n".join(
        shape.format(a=step * k, n=name, o=other, b=step * k * factor)
        for k in range(1, chance.randint(12, 40))
    )


_NAMES = (
    "Ada",
    "Ben",
    "Chen",
    "Dora",
    "Emil",
    "Fatima",
    "Goran",
    "Hana",
    "Ivo",
    "Jun",
    "Kofi",
    "Lea",
)
_CITIES = ("Oslo", "Lima", "Kyoto", "Accra", "Turin", "Perth", "Quito", "Riga", "Sofia", "Tunis")


def sql(chance: random.Random) -> str:
    rows = [
        f"INSERT INTO customers (id, name, city, age, balance) VALUES ({k}, '{chance.choice(_NAMES)}', "
        f"'{chance.choice(_CITIES)}', {chance.randint(18, 90)}, {chance.uniform(0, 999):.2f});"
        for k in range(1, chance.randint(15, 60))
    ]
    return (
        "CREATE TABLE customers (id INT, name TEXT, city TEXT, age INT, balance REAL);\n"
        + "\n".join(rows)
    )


def yaml(chance: random.Random) -> str:
    items = []
    for k in range(chance.randint(8, 30)):
        items.append(
            f"  - name: {chance.choice(_NAMES).lower()}-{k}\n    image: registry.example/{chance.choice(_CITIES).lower()}:1.{k}\n"
            f"    replicas: {chance.randint(1, 9)}\n    resources:\n      limits:\n        cpu: {chance.randint(1, 8)}\n"
            f"        memory: {chance.choice((256, 512, 1024))}Mi\n    restartPolicy: Always\n"
        )
    return "services:\n" + "".join(items)


def hex_dumps(chance: random.Random) -> str:
    raw = Path(sys.executable).resolve().read_bytes()
    start = chance.randrange(0, min(len(raw), 4_000_000) - 4096) & ~15
    lines = []
    for place in range(start, start + 16 * chance.randint(30, 120), 16):
        row = raw[place : place + 16]
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        line = f"{place:08x}  {row[:8].hex(' ')}  {row[8:].hex(' ')}  |{shown}|"
        if row != bytes(16) or lines[-1:] != ["*"]:
            lines.append("*" if row == bytes(16) and place > start else line)
    return "\n".join(lines)


def drawings(chance: random.Random) -> str:
    width, height = chance.randint(8, 30), chance.randint(6, 20)
    which = chance.randrange(4)
    if which == 0:
        rows = ["".join(chance.choice("#.") for _ in range(width)) for _ in range(height)]
    elif which == 1:
        rows = ["+" + "---+" * (width // 3)]
        for _ in range(height // 2):
            rows += [
                "|" + "".join(f" {chance.choice('XO ')} |" for _ in range(width // 3)),
                rows[0],
            ]
    elif which == 2:
        rows = [" " * (height - k) + "*" * (2 * k + 1) for k in range(height)]
    else:
        rows = [f"{name:<8}| {'█' * chance.randint(1, 40)}" for name in _NAMES]
    return "The picture is\n```\n" + "\n".join(rows) + "\n```\nSo the answer can be read off it."


def align(chance: random.Random) -> str:
    lines = []
    a, b = chance.randint(2, 9), chance.randint(2, 9)
    for k in range(chance.randint(8, 24)):
        lines.append(
            f"S_{{{k + 1}}} &= S_{{{k}}} + \\frac{{{a + k}}}{{{b * (k + 1)}}} = \\frac{{{a * k + 1}}}{{{math.comb(k + 3, 2)}}} \\\\"
        )
    return (
        "We compute the partial sums.\n\\begin{align*}\n"
        + "\n".join(lines)
        + "\n\\end{align*}\nThe limit follows."
    )


def chess(chance: random.Random) -> str:
    squares = [f"{c}{r}" for c, r in product("abcdefgh", range(1, 9))]
    move = lambda: chance.choice(("", "N", "B", "R", "Q", "K")) + chance.choice(squares)
    games = []
    for k in range(chance.randint(1, 5)):
        moves = " ".join(f"{n}. {move()} {move()}" for n in range(1, chance.randint(20, 60)))
        games.append(
            f'[Event "Casual game"]\n[Site "{chance.choice(_CITIES)}"]\n[Round "{k + 1}"]\n[White "{chance.choice(_NAMES)}"]\n[Result "1-0"]\n\n{moves} 1-0'
        )
    return "\n\n".join(games)


def music(chance: random.Random) -> str:
    bar = lambda: "".join(
        chance.choice("CDEFGABcdefg") + chance.choice(("", "2", "/2")) for _ in range(6)
    )
    tunes = []
    for k in range(chance.randint(1, 4)):
        a, b = [bar() for _ in range(8)], [bar() for _ in range(8)]
        form = (a[:4], a[:3] + a[4:5], b[:4], b[4:])
        lines = "\n".join("|" + " | ".join(part) + " |" for part in form)
        tunes.append(f"X:{k + 1}\nT:Reel of {chance.choice(_NAMES)}\nM:4/4\nL:1/8\nK:G\n{lines}")
    return "\n\n".join(tunes)


def genes(chance: random.Random) -> str:
    records = []
    for k in range(chance.randint(1, 5)):
        bases = "".join(chance.choice("ACGT") for _ in range(chance.randint(300, 1200)))
        rows = "\n".join(bases[i : i + 60] for i in range(0, len(bases), 60))
        records.append(f">sequence_{k + 1} length={len(bases)}\n{rows}")
    return "\n".join(records)


def refrains(chance: random.Random) -> str:
    """Verses of many words, each followed by the same four lines."""
    nouns = (
        "river",
        "harbour",
        "window",
        "garden",
        "winter",
        "candle",
        "meadow",
        "railway",
        "anchor",
        "lantern",
    )
    verbs = (
        "carries",
        "forgets",
        "follows",
        "gathers",
        "answers",
        "remembers",
        "borrows",
        "watches",
    )
    line = lambda: (
        f"The {chance.choice(nouns)} {chance.choice(verbs)} the {chance.choice(nouns)} {chance.choice(('at dawn', 'in the rain', 'till noon', 'by night'))}"
    )
    refrain = "\n".join(line() for _ in range(chance.choice((2, 4))))
    verses = [
        "\n".join(line() for _ in range(chance.choice((4, 6)))) for _ in range(chance.randint(3, 6))
    ]
    return "\n\n".join(f"{verse}\n\n{refrain}" for verse in verses)


def server_logs(chance: random.Random) -> str:
    second, lines = chance.randint(0, 80_000), []
    verbs = ("GET", "GET", "GET", "POST")
    pages = ("/", "/index.html", "/api/v1/items", "/login", "/static/app.js", "/health")
    for _ in range(chance.randint(20, 90)):
        second += chance.randint(0, 9)
        clock = f"{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}"
        lines.append(
            f'10.0.{chance.randint(0, 9)}.{chance.randint(1, 250)} - - [12/Mar/2024:{clock} +0000] "{chance.choice(verbs)} '
            f'{chance.choice(pages)} HTTP/1.1" {chance.choice((200, 200, 200, 304, 404))} {chance.randint(90, 9000)}'
        )
    return "\n".join(lines)


def dynamic_programming(chance: random.Random) -> str:
    """Code that is traced: a table printed after every step."""
    size, steps = chance.randint(6, 16), chance.randint(4, 12)
    row = [0] * size
    lines = [f"dp = {row}"]
    for k in range(steps):
        row[chance.randrange(size)] += chance.randint(1, 5)
        lines.append(f"After item {k + 1} (weight {chance.randint(1, 9)}): dp = {row}")
    return "\n".join(lines) + f"\nThe last cell holds {row[-1]}."


def binary_sums(chance: random.Random) -> str:
    width = chance.choice((8, 16, 32))
    rows = []
    for _ in range(chance.randint(2, 10)):
        a, b = chance.getrandbits(width // 2), chance.getrandbits(width // 3)
        shown = [" ".join(f"{v:0{width}b}") for v in (a, b, a + b)]
        rows.append(
            f"Add the two {width}-bit numbers:\n{shown[0]}\n{shown[1]}\nThe sum is\n{shown[2]}"
        )
    return "\n\n".join(rows)


def small_functions(chance: random.Random) -> str:
    return "```python\n" + "\n".join(
        f"def f{k}(n):\n    total = 0\n    for i in range(n):\n        total += i ** {k}\n    return total\n"
        for k in range(chance.randint(3, 8))
    ) + "```"  # fmt: skip


def floats(chance: random.Random) -> str:
    values = [
        struct.unpack("f", struct.pack("f", chance.gauss(0, 1)))[0]
        for _ in range(chance.randint(40, 200))
    ]
    return "The weights are\n" + "\n".join(
        " ".join(f"{v:+.4f}" for v in values[i : i + 8]) for i in range(0, len(values), 8)
    )


def sudoku(chance: random.Random) -> str:
    grids = []
    for k in range(chance.randint(1, 5)):
        rows = [" ".join(chance.choice("....123456789") for _ in range(9)) for _ in range(9)]
        grids.append(f"After step {k + 1} the grid is\n" + "\n".join(rows))
    return "\n\n".join(grids)


MADE: dict[str, Maker] = {
    "matrices": matrices,
    "runs of numbers": number_runs,
    "truth tables": truth_tables,
    "Chinese steps": chinese_steps,
    "proofs by cases": cases,
    "multiplication tables": times_tables,
    "unit conversions": conversions,
    "SQL inserts": sql,
    "YAML": yaml,
    "hex dumps": hex_dumps,
    "drawings": drawings,
    "LaTeX alignments": align,
    "chess games": chess,
    "tunes": music,
    "DNA": genes,
    "verses with a refrain": refrains,
    "server logs": server_logs,
    "traced tables": dynamic_programming,
    "binary sums": binary_sums,
    "small functions": small_functions,
    "floats": floats,
    "grids": sudoku,
}
