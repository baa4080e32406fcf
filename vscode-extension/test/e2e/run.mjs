// A user's first quarter of an hour, in a real workbench with the packaged extension in front of the real gateway.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { Desk } from "./desk.mjs";
import { EXTENSION, makeRun, Steps, startBrowser, startWorkbench, until } from "./harness.mjs";
import { Server } from "./server.mjs";

const SHOTS = process.env.SHOTS ?? path.join(EXTENSION, ".e2e/shots");
const FILES = {
  "shop/cart.py":
    'from shop.price import Price\n\n\nclass Cart:\n    """What a customer wants to buy."""\n\n    def __init__(self) -> None:\n        self.items: list[Price] = []\n\n    def total(self) -> float:\n        return sum(item.amount for item in self.items)\n',
  "shop/price.py":
    '"""Prices."""\n\n\nclass Price:\n    def __init__(self, amount: float, currency: str = "EUR") -> None:\n        self.amount = amount\n        self.currency = currency\n',
  "main.py": "from shop.cart import Cart\n\n\ndef add(a, b):\n    return a + b\n",
  "notes.md": "# Notes\n\nNothing yet.\n",
};
const ANSWERS = [
  // Chats by what the question says; completions by the text before the cursor.
  ["add type hints", "def add(a: float, b: float) -> float:\n    return a + b\n"],
  ["make it worse", "def add(a, b):\n    raise NotImplementedError\n"],
  ["both ends", "from shop.cart import Cart, Price\n\n\ndef add(a, b):\n    return b + a\n"],
  [
    "largest files",
    '{"command": "du -a . | sort -rn | head -n 3", "explanation": "Lists the three largest files here."}',
  ],
  ["kettle descaled", "Vinegar of five per cent, twenty minutes [1].\n"],
  ["remove everything", '{"command": "rm -rf ./build", "explanation": "Removes the build folder."}'],
  [
    "what does price do",
    '`Price` holds an **amount** and a currency:\n\n```python shop/price.py\n"""Prices."""\n\n\nclass Price:\n    def __init__(self, amount: float, currency: str = "USD") -> None:\n        self.amount = amount\n        self.currency = currency\n```\n\nIt is used by `Cart`.\n',
  ],
  ["def sub\\(a, b\\):(?=<.fim_suffix|$)", "\n    return a - b"],
  ["def many\\(\\):(?=<.fim_suffix|$)", "\n    first = 1\n    return first"],
  // Of two the second is for requests with a temperature.
  ["choice = (?=<.fim_suffix|$)", ["first(1)", "second(2)"]],
  ["drip = (?=<.fim_suffix|$)", "call(1,\n    2,\n    3)"],
  ["answer = (?=<.fim_suffix|$)", "42"],
  ["slow = (?=<.fim_suffix|$)", "one two three four five six seven eight nine ten"],
];

const run = makeRun();
const server = new Server(run);
const steps = new Steps(SHOTS);
let workbench;
let browser;
let outside = new Set();
try {
  server.answers(ANSWERS);
  await server.startEngine();
  await server.startGateway();
  workbench = await startWorkbench({
    run,
    vsix: path.join(EXTENSION, "aicockpit.vsix"),
    files: FILES,
    settings: { "aicockpit.url": server.url, "chat.disableAIFeatures": true },
  });
  ({ browser, outside } = await startBrowser({ run }));
  const page = browser.pages()[0];
  const desk = new Desk(page, workbench.tree, SHOTS);
  const step = (name, work) => steps.step(name, page, work);
  const context = { desk, page, server, workbench, step, assert, until };
  await step("the workbench opens", () => desk.open(workbench.url));
  for (const part of ["setup", "completion", "edit", "chat", "terminal", "panel", "docs", "sync", "outage", "looks"]) {
    if (process.env.ONLY && !["setup", ...process.env.ONLY.split(",")].includes(part)) continue;
    const { default: play } = await import(`./parts/${part}.mjs`);
    await play(context);
  }
  await step("nothing but this machine was asked for", () => assert.deepEqual([...outside], []));
} finally {
  await browser?.close();
  await workbench?.stop();
  await server.stop();
}
if (process.env.KEEP || steps.failed) console.log(`run folder: ${run}`);
else fs.rmSync(run, { recursive: true, force: true });
process.exit(steps.end());
