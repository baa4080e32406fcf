"""One source per language for the tests of prompts: what its skeleton must keep, and a body to edit."""

from __future__ import annotations

from sample import JS_STATEMENTS, Sample
from sources_more import CPP, CSHARP, JAVA, PHP, RUBY, C

PYTHON = Sample(
    "pkg/shop.py",
    '''"""Prices of things.

More about it.
"""
from .money import Money, convert as change
import os.path

RATE: float = 1.5
HANDLERS = {"a": lambda x: x + 1}
if TYPE_CHECKING:
    from other.place import Thing

@dataclass(
    frozen=True,  # a note
)
class Shop(Base):
    """A shop.

    It sells."""

    name: str
    total = 0

    @property
    async def price(
        self, item: Item,  # which
        count: int = 1,
    ) -> Money:
        """What it costs."""
        a = item
        {body}
        return change(RATE)

    class Shelf:
        pass


def top(a, *rest):
    {body}
    return Money(a)


if __name__ == "__main__":
    secret = 1
''',
    ("helper(1)", "n = 0", "x: int = 3", "y = '''text'''", "pass  # note", "f = lambda: 0"),
    (
        '"""Prices of things."""',
        "from .money import Money, convert as change",
        "RATE: float = 1.5",
        "@dataclass(frozen=True)",
        "class Shop(Base):",
        '    """A shop."""',
        "    async def price(self, item: Item, count: int = 1) -> Money:",
        '        """What it costs."""',
        "    class Shelf: ...",
        "def top(a, *rest): ...",
        "from other.place import Thing",
    ),
    ("RATE", "Shop", "name", "total", "price", "Shelf", "top"),
    ("Base", "Money", "change"),
    (".money.Money", ".money.convert", "os.path", "other.place.Thing"),
)
TYPESCRIPT = Sample(
    "src/shop.ts",
    """import { Money } from "./money";
import type { Thing } from "../thing.js";
export * from "./other";
/**
 * A shop.
 * It sells.
 */
@Injectable({ where: "root" })
export class Shop<T> extends Base implements Sells {
  private total: number = 0;
  onClick = (event: Event) => { {body} };
  constructor(private readonly api: Api) { super(); }
  async price(item: T, count = 1): Promise<Money> { {body} }
}
export interface Sells { price(item: unknown, count?: number): Promise<Money>; name: string }
export type Kind = "a" | "b";
export enum Level { Low = 1, High }
export const make = (a: string): Shop<Thing> => { {body} };
namespace Inner { export function deep(a: number): void { {body} } }
""",
    JS_STATEMENTS,
    (
        'import { Money } from "./money";',
        "// A shop.",
        "export class Shop<T> extends Base implements Sells {",
        "  private total: number = 0;",
        "  async price(item: T, count = 1): Promise<Money>;",
        "  price(item: unknown, count?: number): Promise<Money>;",
        'export type Kind = "a" | "b";',
        "export enum Level { Low = 1, High }",
        "export const make = (a: string): Shop<Thing> => ...;",
        "  export function deep(a: number): void;",
    ),
    ("Shop", "total", "price", "Sells", "Kind", "Level", "High", "make", "deep"),
    ("Base", "Money", "Thing"),
    ("./money", "../thing.js", "./other"),
)
TSX = Sample(
    "src/view.tsx",
    """import React from "react";
export function View({ name }: Props) { {body} return <div onClick={() => run()}>{name}</div>; }
""",
    JS_STATEMENTS,
    ("export function View({ name }: Props);",),
    ("View",),
    ("Props", "React"),
    ("react",),
)
JAVASCRIPT = Sample(
    "lib/shop.js",
    """const money = require("./money");
import { thing } from './thing';
// A shop that sells.
class Shop extends Base { static rate = 1; price(item) { {body} } get name() { return 1; } }
function* walk(a) { {body} }
const LIMIT = 10, go = async (a) => { {body} };
module.exports = { Shop, run() { {body} } };
""",
    JS_STATEMENTS,
    (
        'const money = require("./money");',
        "// A shop that sells.",
        "class Shop extends Base {",
        "  price(item);",
        "function* walk(a);",
        "const LIMIT = 10, go = async (a) => ...;",
        "module.exports = { Shop, run() ... };",
    ),
    ("Shop", "rate", "price", "walk", "LIMIT", "go"),
    ("Base", "thing"),
    ("./money", "./thing"),
)
JSX = Sample(
    "lib/view.jsx",
    "export default function View(props) { {body} return <p className='x'>{props.name}</p>; }\n",
    JS_STATEMENTS,
    ("export default function View(props);",),
    ("View",),
    (),
    (),
)
GO = Sample(
    "shop/shop.go",
    """package shop

import (
	"fmt"
	m "example.com/x/money"
)

// Shop sells.
// More.
type Shop[T any] struct {
	Name string // its name
	m.Base
}

type Seller interface {
	Price(item string) (m.Money, error)
}

type Kind = string

const (
	Low = 1
	High
)

var handler = func(a int) { {body} }

func (s *Shop[T]) Price(item string) (m.Money, error) {
	{body}
	return Convert(item), nil
}

func New(a int) *Shop[int] { {body} }
""",
    ("helper(1)", "n := 0", "for { break }", "if a { other(a) }", "// note\n", "f := func() { g() }"),
    (
        'import ("fmt"; m "example.com/x/money")',
        "// Shop sells.",
        "type Shop[T any] struct {",
        "\tName string",
        "type Seller interface {",
        "\tPrice(item string) (m.Money, error)",
        "const (Low = 1; High)",
        "func (s *Shop[T]) Price(item string) (m.Money, error)",
        "func New(a int) *Shop[int]",
    ),
    ("Shop", "Name", "Seller", "Price", "Kind", "Low", "High", "handler", "New"),
    ("Convert", "Money"),
    ("fmt", "example.com/x/money"),
)
RUST = Sample(
    "src/shop.rs",
    """use crate::money::{self, Money, rate::{high, low}};
mod shelf;
/// A shop.
/// More.
#[derive(Debug, Clone)]
pub struct Shop<T> where T: Sell { pub name: String, total: u32 }
pub struct Point(pub i32, i32);
pub enum Level { Low, High(i32) }
pub trait Sell { const RATE: u32; fn price(&self, item: &str) -> Money; fn twice(&self) -> u32 { {body} } }
impl<T: Sell> Sell for Shop<T> { fn price(&self, item: &str) -> Money { {body} } }
pub const LIMIT: usize = 10;
macro_rules! shout { () => {} }
pub async fn open(a: u32) -> Result<(), Failure> { {body} }
""",
    ("helper(1);", "let n = 0;", "for _ in 0..1 {}", "if a { other(a); }", "// note\n", "let f = |x| { g(x) };"),
    (
        "use crate::money::{self, Money, rate::{high, low}};",
        "// A shop.",
        "#[derive(Debug, Clone)]",
        "pub struct Shop<T> where T: Sell {",
        "    pub name: String,",
        "pub struct Point(pub i32, i32);",
        "    fn price(&self, item: &str) -> Money;",
        "impl<T: Sell> Sell for Shop<T> {",
        "pub const LIMIT: usize = 10;",
        "pub async fn open(a: u32) -> Result<(), Failure>;",
    ),
    ("Shop", "name", "Point", "Level", "High", "Sell", "RATE", "price", "LIMIT", "shout", "open"),
    ("Money", "Failure"),
    ("crate::money", "crate::money::Money", "crate::money::rate::high", "crate::money::rate::low", "self::shelf"),
)
SAMPLES = (PYTHON, TYPESCRIPT, TSX, JAVASCRIPT, JSX, GO, RUST, JAVA, C, CPP, CSHARP, RUBY, PHP)
