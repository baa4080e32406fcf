// The pictures of the README, with a small project in the folder: SHOTS=media/shots node test/e2e/shots.mjs
import path from "node:path";
import process from "node:process";
import { Desk } from "./desk.mjs";
import { EXTENSION, makeRun, Steps, startBrowser, startWorkbench, until } from "./harness.mjs";
import { enterKey } from "./parts/setup.mjs";
import { KEY, Server } from "./server.mjs";

const SHOTS = process.env.SHOTS ?? path.join(EXTENSION, "media/shots");
const TAX = `"""Value added tax."""

from decimal import ROUND_HALF_UP, Decimal

RATES = {"standard": Decimal("0.19"), "reduced": Decimal("0.07")}


def tax(net: Decimal, rate: str = "standard") -> Decimal:
    return (net * RATES[rate]).quantize(Decimal("0.01"), ROUND_HALF_UP)
`;
const INVOICE = `"""Invoices: what is owed, by when, and whether it was paid."""

from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal

from billing.tax import tax

TERM = timedelta(days=30)


@dataclass
class Line:
    text: str
    net: Decimal
    rate: str = "standard"


@dataclass
class Invoice:
    number: str
    issued: date
    lines: list[Line] = field(default_factory=list)
    paid: date | None = None

    @property
    def due(self) -> date:
        return self.issued + TERM

    def total(self):
        amount = 0
        for line in self.lines:
            amount += line.net + tax(line.net, line.rate)
        return amount
`;
const FILES = {
  "billing/__init__.py": "",
  "billing/invoice.py": INVOICE,
  "billing/tax.py": TAX,
  "billing/reminders.py": '"""Who is reminded, and when."""\n',
  "tests/test_invoice.py": "from billing.invoice import Invoice\n",
  "tests/test_tax.py": "from billing.tax import tax\n",
  "README.md": "# billing\n\nInvoices of a small workshop.\n",
  "pyproject.toml": '[project]\nname = "billing"\nversion = "1.4.0"\n',
};
const ANSWERS = [
  [
    "shorter",
    '    def total(self) -> Decimal:\n        """Net and tax of all lines."""\n        return sum((line.net + tax(line.net, line.rate) for line in self.lines), Decimal(0))\n',
  ],
  [
    "rounded",
    'Each line\'s tax is rounded **on its own**, to the cent, half up. A total may so differ by a cent from the tax of the sum.\n\nTo round once per rate:\n\n```python billing/tax.py\nRATES = {"standard": Decimal("0.19"), "reduced": Decimal("0.07"), "none": Decimal(0)}\n\n\ndef tax(net: Decimal, rate: str = "standard") -> Decimal:\n    return net * RATES[rate]\n\n\ndef rounded(amount: Decimal) -> Decimal:\n    return amount.quantize(Decimal("0.01"), ROUND_HALF_UP)\n```\n\nThen `Invoice.total` in `billing/invoice.py:33` rounds each rate\'s sum.\n',
  ],
  [
    "def overdue\\(self, today: date\\) -> bool:(?=\\s*(?:<.fim_suffix|$))",
    '\n        """Not paid, and its term is over."""\n        return self.paid is None and today > self.due',
  ],
];

const run = makeRun();
const server = new Server(run);
const steps = new Steps(SHOTS);
let workbench;
let browser;
try {
  server.answers(ANSWERS);
  await server.startEngine();
  await server.startGateway();
  workbench = await startWorkbench({
    run,
    name: "billing",
    vsix: path.join(EXTENSION, "aicockpit.vsix"),
    files: FILES,
    settings: {
      "aicockpit.url": server.url,
      "aicockpit.workspace.sync": "always",
      "chat.disableAIFeatures": true,
      "editor.fontSize": 13,
    },
  });
  ({ browser } = await startBrowser({ run }));
  const page = browser.pages()[0];
  const desk = new Desk(page, workbench.tree, SHOTS);
  const step = (name, work) => steps.step(name, page, work);
  const picture = async (name) => {
    await page.mouse.move(1000, 700);
    await desk.picture(name);
  };
  await step("a warm folder", async () => {
    await desk.open(workbench.url);
    await desk.untilStatus(/set up/i);
    await enterKey(desk, KEY);
    await desk.untilStatus(/warm\b/i, 60_000);
    await page.locator(".explorer-folders-view .monaco-list-row", { hasText: "billing" }).first().click();
    await desk.file("invoice.py");
    await desk.clear();
  });
  await step("completion.png", async () => {
    await desk.focusEditor();
    await desk.keys("Control+End", "Enter");
    await desk.type("    def overdue(self, today: date) -> bool:");
    await desk.untilGhost(/self\.due/);
    await picture("completion");
    await desk.keys("Tab");
    await desk.save();
  });
  await step("edit.png", async () => {
    await desk.keys("Control+Home");
    await desk.command("Go to Line/Column");
    await desk.type("30");
    await desk.keys("Enter", "Home", "Home");
    for (let line = 0; line < 5; line += 1) await desk.keys("Shift+ArrowDown");
    await desk.keys("Control+K");
    await page.locator(".quick-input-widget input").first().waitFor({ state: "visible" });
    await desk.type("shorter, typed, with a docstring", 5);
    await desk.keys("Enter");
    await page.getByText("Accept All").first().waitFor();
    await until(async () => /Net and tax/.test(await desk.editorText()), "the new text");
    await picture("edit");
    await desk.focusEditor();
    await desk.keys("Control+Enter");
    await desk.save();
  });
  await step("chat.png", async () => {
    await desk.file("tax.py");
    await desk.command("AiCockpit: Open Chat");
    const side = await page.locator(".part.sidebar").boundingBox();
    await page.mouse.move(side.x + side.width, 400);
    await page.mouse.down();
    await page.mouse.move(side.x + 470, 400, { steps: 4 });
    await page.mouse.up();
    const chat = await desk.chat();
    const box = chat.locator("textarea").first();
    await box.click();
    await box.pressSequentially("How is tax rounded in @file:tax", { delay: 20 });
    await chat
      .getByRole("option", { name: /tax\.py/ })
      .first()
      .waitFor();
    await desk.keys("Enter");
    await chat.locator(".composer .chip").first().waitFor();
    await desk.keys("Enter");
    await chat
      .getByText(/cached/)
      .first()
      .waitFor();
    await chat.locator("[data-action=apply]").first().click();
    await page.locator(".monaco-diff-editor .char-insert").first().waitFor();
    await desk.clear();
    await picture("chat");
    await chat.getByRole("button", { name: "Discard" }).first().click();
  });
  await step("panel.png", async () => {
    await desk.command("View: Toggle Primary Side Bar Visibility");
    await desk.command("AiCockpit: Why Slow, Why Nothing");
    const panel = await desk.panel();
    await panel.locator("li.row").first().waitFor();
    await panel.locator("li.row .head").first().click();
    await panel.locator(".details").first().waitFor();
    await desk.clear();
    await picture("panel");
  });
} finally {
  await browser?.close();
  await workbench?.stop();
  await server.stop();
}
process.exit(steps.end());
