"""How well are personal data and secrets found, and how often are ordinary numbers taken for them?

    python benchmarks/personal_data.py [--spans PII.jsonl.gz] [--ordinary FILE.jsonl.gz ...]

For each kind it writes 400 sentences with one value each, in many spellings, and 800 sentences with an
ordinary number (orders, versions, hashes, dates, times, prices, ISBNs, addresses of hosts). All are made
from a seed; none was used to write the patterns. Recall is the share of values that are found, with at least
half of their characters. Precision counts every finding in either kind of sentence. Intervals are 95 %
Wilson intervals.

`--spans` adds texts of your own, one JSON object a line with `text` and `spans` (lists of kind, start and
end; CREDIT_CARD, EMAIL_ADDRESS, IBAN_CODE, PHONE_NUMBER and US_SSN count). `--ordinary` counts findings in
rows with a `text`, `prompt` or `instruction`.
"""

import argparse
import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from extproc.lab.measure.intervals import wilson
from extproc.safety import checksums
from extproc.safety.text_scan import KINDS, find

ROWS, ORDINARY_ROWS = 400, 800
_NAMES = {
    "CREDIT_CARD": "card",
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "PHONE_NUMBER": "phone",
    "US_SSN": "national_id",
}
_LOWER, _UPPER, _ALNUM = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789abcdefghijABCDEFGHIJ",
)

_T = TypeVar("_T")
Made = tuple[str, str]  # a sentence, and the value in it; empty: nothing that should be found


class Writer:
    """Writes sentences from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def sentence(self, kind: str) -> Made:
        """A sentence with one value of the kind."""
        value = {
            "card": self.card,
            "email": self.email,
            "iban": self.iban,
            "national_id": self.national_id,
            "phone": self.phone,
            "secret": self.secret,
        }[kind]()
        frame = self.one(_FRAMES[kind])
        return frame.format(value), value

    def ordinary(self) -> Made:
        """A sentence with a number that is nobody's."""
        frame, make = self.one(self._ordinary())
        return frame.format(make()), ""

    def one(self, options: Sequence[_T]) -> _T:
        """One of the options."""
        return self._random.choice(options)

    def digits(self, size: int, first: str = "0123456789") -> str:
        """So many digits."""
        return self.one(first) + "".join(self.one("0123456789") for _ in range(size - 1)) if size else ""

    def text(self, size: int, letters: str) -> str:
        """So many of the letters."""
        return "".join(self.one(letters) for _ in range(size))

    def grouped(self, digits: str, sizes: tuple[int, ...], by: str) -> str:
        """The digits in groups of these sizes."""
        pieces, at = [], 0
        for size in sizes:
            pieces.append(digits[at : at + size])
            at += size
        return by.join(pieces)

    def card(self) -> str:
        """A card of one of five networks, with or without separators."""
        begin, size, sizes = self.one(
            [
                ("4", 16, (4, 4, 4, 4)),
                ("52", 16, (4, 4, 4, 4)),
                ("2345", 16, (4, 4, 4, 4)),
                ("37", 15, (4, 6, 5)),
                ("6011", 16, (4, 4, 4, 4)),
                ("3530", 16, (4, 4, 4, 4)),
                ("36", 14, (4, 6, 4)),
            ]
        )
        body = begin + self.digits(size - 1 - len(begin))
        number = next(body + d for d in "0123456789" if checksums.luhn(body + d))
        by = self.one(["", " ", "-", ""])
        return self.grouped(number, sizes, by) if by else number

    def email(self) -> str:
        """An address, plain or with what addresses may have."""
        user = self.one(["{a}.{b}", "{a}{n}", "{a}_{b}", "{a}+{b}", "{a}", "{a}-{b}{n}"])
        host = self.one(
            ["{b}.com", "mail.{b}.co.uk", "{b}.example.org", "{a}-{b}.de", "{b}.io", "{b}.museum"]
        )
        words = {
            "a": self.text(self.one([3, 5, 8]), _LOWER),
            "b": self.text(self.one([4, 7]), _LOWER),
            "n": self.digits(2),
        }
        made = f"{user}@{host}".format(**words)
        return self.one([made, made, made.title(), made.upper()])

    def iban(self) -> str:
        """An account of one of several countries, in groups of four or not."""
        country, letters = self.one(
            [
                ("DE", ""),
                ("GB", "WEST"),
                ("FR", ""),
                ("ES", ""),
                ("NL", "ABNA"),
                ("PL", ""),
                ("CH", ""),
                ("NO", ""),
                ("AT", ""),
                ("BE", ""),
                ("IT", "X"),
            ]
        )
        size = checksums.iban_length(country) or 0
        bban = letters + self.digits(size - 4 - len(letters))
        rest = int("".join(str(int(each, 36)) for each in f"{bban}{country}00")) % 97
        whole = f"{country}{98 - rest:02}{bban}"
        shown = " ".join(whole[i : i + 4] for i in range(0, size, 4)) if self.one([True, False]) else whole
        return self.one([shown, shown, shown.lower()])

    def national_id(self) -> str:
        """A number of one of eight countries."""
        made = [self._cpf, self._dni, self._nir, self._codice, self._bsn, self._pesel, self._ssn, self._nino]
        return self.one(made)()

    def _until(self, check: Callable[[str], bool], make: Callable[[], str]) -> str:
        while not check(made := make()):
            pass
        return made

    def _cpf(self) -> str:
        def make() -> str:
            return f"{self.grouped(self.digits(9), (3, 3, 3), '.')}-{self.digits(2)}"

        made = self._until(checksums.brazilian_cpf, make)
        return self.one([made, checksums.plain(made)])

    def _dni(self) -> str:
        number = self.digits(8)
        by = self.one(["", "-"])
        return self._until(checksums.spanish_dni, lambda: f"{number}{by}{self.one(_UPPER)}")

    def _nir(self) -> str:
        def make() -> str:
            month = f"{self._random.randint(1, 12):02}"
            born = f"{self.one('12')} {self.digits(2)} {month} {self.digits(2, '1234567')}"
            return f"{born} {self.digits(3)} {self.digits(3)} {self.digits(2)}"

        made = self._until(checksums.french_nir, make)
        return self.one([made, made.replace(" ", "")])

    def _codice(self) -> str:
        def make() -> str:
            day = f"{self._random.randint(1, 31):02}"
            head = f"{self.text(6, _UPPER)}{self.digits(2)}{self.one('ABCDEHLMPRST')}{day}"
            return f"{head}{self.one(_UPPER)}{self.digits(3)}{self.one(_UPPER)}"

        return self._until(checksums.italian_tax_code, make)

    def _bsn(self) -> str:
        return "BSN " + self._until(checksums.dutch_bsn, lambda: self.digits(9, "123"))

    def _pesel(self) -> str:
        def make() -> str:
            born = f"{self.digits(2)}{self._random.randint(1, 12):02}{self._random.randint(1, 28):02}"
            return born + self.digits(5)

        return self._until(checksums.polish_pesel, make)

    def _ssn(self) -> str:
        by = self.one(["-", "-", " "])
        number = self._until(checksums.us_ssn, lambda: self.digits(9))
        return ("SSN " if by == " " else "") + self.grouped(number, (3, 2, 4), by)

    def _nino(self) -> str:
        made = f"{self.one(['AB', 'CE', 'JK', 'PR'])}{self.digits(6)}{self.one('ABCD')}"
        return self.one([made, f"{made[:2]} {made[2:4]} {made[4:6]} {made[6:8]} {made[8]}"])

    def phone(self) -> str:
        """A number as people of several countries write it."""
        d = self.digits
        area, exchange = d(3, "23456789"), d(3, "23456789")
        return self.one(
            [
                f"+49 {d(3, '1')} {d(7)}",
                f"+1 {area} {exchange} {d(4)}",
                f"({area}) {exchange}-{d(4)}",
                f"{area}-{exchange}-{d(4)}",
                f"{area}.{exchange}.{d(4)}",
                f"+44 20 {d(4)} {d(4)}",
                f"+33 {d(1, '1267')} {d(2)} {d(2)} {d(2)} {d(2)}",
                f"0{d(1, '1267')} {d(2)} {d(2)} {d(2)} {d(2)}",
                f"0{d(3, '1')}/{d(7)}",
                f"+81-{d(2, '9')}-{d(4)}-{d(4)}",
                f"+86{d(11, '1')}",
                f"07{d(3)} {d(6)}",
                f"+61 4{d(2)} {d(3)} {d(3)}",
                f"1-{area}-{exchange}-{d(4)}",
                f"+55 11 9{d(4)}-{d(4)}",
            ]
        )

    def secret(self) -> str:
        """A key or token of one of a dozen providers."""
        t = self.text
        return self.one(
            [
                "AKIA" + t(16, "ABCDEFGHIJKLMNOP234567"),
                "ghp_" + t(36, _ALNUM),
                "glpat-" + t(20, _ALNUM),
                "sk_live_" + t(24, _ALNUM),
                "sk-proj-" + t(48, _ALNUM),
                "sk-ant-api03-" + t(60, _ALNUM),
                "AIza" + t(35, _ALNUM),
                "npm_" + t(36, _ALNUM),
                f"xoxb-{self.digits(12)}-{t(24, _ALNUM)}",
                "hf_" + t(34, _ALNUM),
                f"SG.{t(22, _ALNUM)}.{t(43, _ALNUM)}",
                f"eyJ{t(20, _ALNUM)}.eyJ{t(40, _ALNUM)}.{t(43, _ALNUM)}",
                "dop_v1_" + t(64, "0123456789abcdef"),
                "AC" + t(32, "0123456789abcdef"),
                "pypi-" + t(80, _ALNUM),
            ]
        )

    def _ordinary(self) -> list[tuple[str, Callable[[], str]]]:
        d, t, r = self.digits, self.text, self._random.randint
        hexa = "0123456789abcdef"
        return [
            ("Where is my order {}?", lambda: d(10, "123456789")),
            ("Order number {} has not arrived.", lambda: d(16, "56789")),
            ("Invoice {} is overdue.", lambda: f"INV-{d(4)}-{d(6)}"),
            ("The tracking number is {}.", lambda: "1Z" + t(16, "0123456789ABCDEF")),
            ("We run version {}.", lambda: f"{r(0, 20)}.{r(0, 99)}.{r(0, 9999)}"),
            (
                "Upgrade from build {} please.",
                lambda: f"{r(1, 12)}.{r(0, 9)}.{r(10000, 99999)}.{r(100, 999)}",
            ),
            ("It broke in commit {}.", lambda: t(40, hexa)),
            ("The checksum is {}.", lambda: t(64, hexa)),
            ("Session {} timed out.", lambda: "-".join(t(n, hexa) for n in (8, 4, 4, 4, 12))),
            (
                "The meeting is on {}.",
                lambda: f"20{r(10, 39)}-{r(1, 12):02}-{r(1, 28):02} {r(0, 23):02}:{r(0, 59):02}",
            ),
            (
                "Born {} in a small town, he wrote novels.",
                lambda: f"{r(1, 28):02}.{r(1, 12):02}.19{r(10, 99)}",
            ),
            (
                "The log says {}.",
                lambda: f"20{r(10, 39)}{r(1, 12):02}{r(1, 28):02}T{r(0, 23):02}{r(0, 59):02}{r(0, 59):02}Z",
            ),
            ("At {} the job failed.", lambda: f"1{r(600, 799)}{d(6)}"),
            ("Epoch {} in milliseconds is when?", lambda: f"1{r(600, 799)}{d(9)}"),
            ("The host {} does not answer.", lambda: ".".join(str(r(1, 254)) for _ in range(4))),
            ("It costs ${}.", lambda: f"{r(1, 9)},{d(3)},{d(3)}.{d(2)}"),
            ("Population: {}.", lambda: f"{r(1, 999)}.{d(3)}.{d(3)}"),
            ("Read ISBN {} for details.", lambda: f"978-{d(1)}-{d(2)}-{d(6)}-{d(1)}"),
            ("Article {} is out of stock.", lambda: f"{d(3)}.{d(3)}.{d(2)}"),
            ("Part {} fits the pump.", lambda: f"{d(4)}-{d(3)}-{d(3)}"),
            ("Multiply {} please.", lambda: f"{d(5)} by {d(6)}"),
            ("Pi is {}.", lambda: f"3.{d(14)}"),
            ("The area is at {}.", lambda: f"{r(1, 89)}.{d(6)}, {r(1, 179)}.{d(6)}"),
            ("Ticket {} was closed.", lambda: f"#{d(9)}"),
            (
                "Install it with {}.",
                lambda: f"npm install @{t(5, _LOWER)}/{t(6, _LOWER)}@{r(1, 9)}.{r(0, 9)}.{r(0, 9)}",
            ),
            ("Clone {} first.", lambda: f"git@host.example:{t(5, _LOWER)}/{t(6, _LOWER)}.git"),
            ("The decorator {} needs a path.", lambda: f"@{t(4, _LOWER)}.route"),
            ("The regression shows {}.", lambda: " ".join(f"{r(-9, 9)}.{d(4)}" for _ in range(5))),
            ("Primes: {}.", lambda: ", ".join(str(r(100, 9999)) for _ in range(6))),
            ("The account {} was charged twice.", lambda: d(12)),
            ("Call it {} times.", lambda: d(7, "123456789")),
            ("The serial number {} is on the back.", lambda: f"{t(3, _UPPER)}{d(8)}"),
        ]


_FRAMES = {
    "card": [
        "My card {} was declined.",
        "Please charge {} for it.",
        "Card number: {}, exp 12/29, thanks",
        "I pay with {}",
        "cc={}&amount=12",
    ],
    "email": [
        "Write to {} please.",
        "My address is {}",
        "<{}> sent this",
        "cc: {}, boss",
        "Is {} a valid address?",
    ],
    "iban": [
        "Send it to {} today.",
        "IBAN: {}",
        "My account is {}, please confirm.",
        "Transfer 20 EUR to {}",
    ],
    "national_id": [
        "My number is {}.",
        "Applicant: {}",
        "Please check {} for me",
        "The form asks for {}, is that right?",
    ],
    "phone": [
        "Call me at {}.",
        "My number is {}",
        "Phone: {}",
        "Reach the office under {} until six.",
        "{} is the hotline",
    ],
    "secret": [
        "Why does {} not work?",
        "export KEY={}",
        'curl -H "Authorization: Bearer {}" https://x.example',
        "token: {}",
    ],
}


def main() -> None:
    """Print a table, and what the options ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spans", type=Path)
    parser.add_argument("--ordinary", type=Path, nargs="*", default=[])
    parser.add_argument("--mistakes", action="store_true", help="print what is missed and what is wrong")
    options = parser.parse_args()
    writer = Writer(options.seed)
    rows = [(kind, *writer.sentence(kind)) for kind in KINDS for _ in range(ROWS)]
    rows += [("", *writer.ordinary()) for _ in range(ORDINARY_ROWS)]
    _print_table(rows, options.mistakes)
    if options.spans:
        _print_spans(options.spans)
    for path in options.ordinary:
        _print_ordinary(path)
    plain = (
        "Please write a short story about a dog who finds a map in the attic and goes on an adventure. " * 5
    )
    begun = time.perf_counter()
    for _ in range(2000):
        find(plain[:500])
    print(f"500 characters without any: {(time.perf_counter() - begun) / 2000 * 1e6:.0f} us")


def _print_table(rows: list[tuple[str, str, str]], mistakes: bool) -> None:
    hits, wrong = Counter[str](), Counter[str]()
    for kind, text, value in rows:
        start = text.index(value) if value else 0
        for each in find(text):
            common = min(each.end, start + len(value)) - max(each.start, start)
            if value and each.kind == kind and common * 2 >= len(value):
                hits[kind] += 1
            else:
                wrong[each.kind] += 1
                if mistakes:
                    print(f"wrong {each.kind}: {text}")
        if mistakes and value and not [each for each in find(text) if each.kind == kind]:
            print(f"missed {kind}: {text}")
    print("| kind | values | recall | precision |\n|---|---|---|---|")
    for kind in KINDS:
        found = hits[kind] + wrong[kind]
        print(f"| {kind} | {ROWS} | {_share(hits[kind], ROWS)} | {_share(hits[kind], found)} |")


def _share(hits: int, rows: int) -> str:
    if not rows:
        return "-"
    interval = wilson(hits, rows)
    return f"{hits / rows:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _print_spans(path: Path) -> None:
    values, hits, wrong = Counter[str](), Counter[str](), Counter[str]()
    for row in _rows(path):
        found = list(find(row["text"]))
        for name, start, end in row["spans"]:
            if name in _NAMES:
                kind = _NAMES[name]
                values[kind] += 1
                match = next((f for f in found if f.kind == kind and f.start < end and f.end > start), None)
                if match is not None:
                    hits[kind] += 1
                    found.remove(match)
        wrong.update(each.kind for each in found)
    print("| kind | values | found | other findings |\n|---|---|---|---|")
    for kind in values:
        print(f"| {kind} | {values[kind]} | {hits[kind]} | {wrong[kind]} |")


def _print_ordinary(path: Path) -> None:
    rows, found = 0, Counter[str]()
    for row in _rows(path):
        text = row.get("text") or row.get("prompt") or row.get("instruction") or ""
        rows += 1
        found.update({each.kind for each in find(text)})
    print(f"{path.name}: {rows} rows, with findings: {dict(found) or 0}")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        yield from map(json.loads, lines)


if __name__ == "__main__":
    main()
