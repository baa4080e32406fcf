// The same extension with a real model behind it: what it says is the model's; that it comes, and warm, is ours.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { Desk } from "./desk.mjs";
import { EXTENSION, makeRun, Steps, startBrowser, startWorkbench, until } from "./harness.mjs";
import { enterKey } from "./parts/setup.mjs";

const { SERVER_URL: url, SERVER_KEY: key } = process.env;
const SHOTS = process.env.SHOTS ?? path.join(EXTENSION, ".e2e/shots");
const run = makeRun();
const steps = new Steps(SHOTS);
const ask = async (route) => (await fetch(url + route, { headers: { authorization: `Bearer ${key}` } })).json();
let workbench;
let browser;
try {
  const files = {};
  for (let number = 0; number < 6; number += 1)
    files[`pkg/mod${number}.py`] =
      `"""Module ${number}."""\n\nimport os\n\n\ndef run${number}(path: str, count: int) -> int:\n    return count + ${number}\n`;
  files["main.py"] = "from pkg.mod0 import run0\n\n\n";
  workbench = await startWorkbench({
    run,
    files,
    vsix: path.join(EXTENSION, "aicockpit.vsix"),
    settings: {
      "aicockpit.url": url,
      "aicockpit.workspace.sync": "always",
      "aicockpit.workspace.name": "workbench",
      "chat.disableAIFeatures": true,
    },
  });
  ({ browser } = await startBrowser({ run }));
  const desk = new Desk(browser.pages()[0], workbench.tree, SHOTS);
  const step = (name, work) => steps.step(name, desk.page, work);
  await step("connects with a key", async () => {
    await desk.open(workbench.url);
    await desk.untilStatus(/set up/);
    await enterKey(desk, key);
    await desk.untilStatus(/warm|ready/i, 60_000);
  });
  await step("the folder becomes warm", async () => {
    const warm = async () => {
      const { context } = await ask("/api/workspaces/workbench");
      return Object.values(context.models).some((model) => model.lanes?.completion?.state === "warm");
    };
    await until(warm, "warm at the server", 90_000);
    await desk.untilStatus(/warm/i, 30_000);
    await desk.picture("real-warm");
  });
  await step("ghost text from the model", async () => {
    await desk.file("main.py");
    await desk.keys("Control+End");
    await desk.type("def add(a, b):\n    return ", 20);
    await desk.untilGhost(/\S/, 60_000);
    await desk.picture("real-completion");
  });
  await step("its prompt had the warm head in front", async () => {
    // How much the engine found is told at a stream's end, which ours mostly does not wait for.
    const warm = async () => {
      const { requests } = await ask("/api/requests?limit=50");
      return requests.some((one) => one.route === "/v1/completions" && one.context?.predicted_cached > 0);
    };
    await until(warm, "a completion behind the warm head");
  });
  await step("a chat is answered", async () => {
    await desk.command("AiCockpit: Open Chat");
    const chat = await desk.chat();
    await chat.locator("textarea").first().fill("Say hello in one word.");
    await chat.locator("textarea").first().press("Enter");
    await chat
      .getByText(/cached/)
      .first()
      .waitFor({ timeout: 90_000 });
    await desk.picture("real-chat");
  });
  assert.ok(steps.passed > 0);
} finally {
  await browser?.close();
  await workbench?.stop();
}
if (process.env.KEEP || steps.failed) console.log(`run folder: ${run}`);
else fs.rmSync(run, { recursive: true, force: true });
process.exit(steps.end());
